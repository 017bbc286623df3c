//! dml-data
