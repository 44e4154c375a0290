//! `rei pause`.

/// `rei pause`: begin no evolution until `rei resume`; the runtime is kept alive as before.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Why, for the record
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}
