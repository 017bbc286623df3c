//! dml-retrieval
