//! Reports as a whole: every kind of block, hostile text, wrong data, files.
