//! The commands and their options.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Automates the workspace: reproduction, downloads, reference checks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Flags {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train, evaluate, and write a report. Started again after an interruption, it goes on where it was.
    Reproduce(Reproduce),
    /// Check a folder of reference cases: a line each, exit status 1 if any fails.
    Golden {
        /// The folder with `manifest.json` and the safetensors files.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub struct Reproduce {
    /// The experiments to run.
    #[arg(long, value_enum, default_value_t = Suite::Quick)]
    pub suite: Suite,
    /// A folder for runs and report [default: runs/SUITE].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Runs at a time, each on one thread [default: the number of cores].
    #[arg(long)]
    pub jobs: Option<usize>,
    /// A few steps of every run: checks that all works, measures nothing.
    #[arg(long)]
    pub smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The bundled digits: metric learning, closed-set and zero-shot, and directed retrieval. Minutes.
    Quick,
}
