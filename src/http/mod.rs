//! The server.

/// Where and how to serve.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Most requests for metrics answered at the same time; more get status 503.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    pub max_requests: usize,
}
