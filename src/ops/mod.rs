//! The operator's commands, one a file.

pub mod migrate;
pub mod print;
