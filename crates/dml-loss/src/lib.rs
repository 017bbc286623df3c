//! dml-loss
