//! `debug`: what it takes. It decides nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Help from afar.
#[derive(Debug, Clone, Subcommand)]
pub enum DebugCommand {
    /// Put all that helps to help into one archive: no payloads, no keys, no secrets
    ///
    /// Configuration (redacted), status, topics, causes of dead letters, blocked keys, requests, lease, schema, settings and
    /// sizes of the database, the last errors, what Kafka says of the topics, and metrics of the relay on this host. What
    /// cannot be had is named in it; it is written all the same.
    Bundle(BundleOptions),
}

/// Where to, and where from.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct BundleOptions {
    /// The archive [default: outbox-relay-bundle-<time>.tar.gz in the working directory]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where the relay serves /metrics [default: http.listen, on this host]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
}
