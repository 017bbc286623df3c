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
    /// Fetch datasets and verify them; started again after an interruption, it goes on where it was.
    Download(Download),
    /// Run the crates' micro-benchmarks, or measure the same work here and in a peer, side by side.
    Bench(Bench),
    /// The process that `bench` measures.
    #[command(hide = true)]
    BenchWorker,
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
    /// A folder for runs and report [default: runs/SUITE, with --smoke runs/SUITE-smoke].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Runs at a time, each on one thread [default: the number of cores].
    #[arg(long)]
    pub jobs: Option<usize>,
    /// A few steps of every run: checks that all works, measures nothing.
    #[arg(long)]
    pub smoke: bool,
    /// The sets of `--suite paper`, separated by commas [default: all five].
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub datasets: Vec<String>,
    /// A folder or address that has the sets of `--suite paper`, as for `download`.
    #[arg(long, value_name = "DIR|URL")]
    pub mirror: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Download {
    /// The datasets, by their names in `datasets/manifest.toml`.
    #[arg(required_unless_present_any = ["all", "list"])]
    pub names: Vec<String>,
    /// Every dataset of the manifest.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Only list the datasets.
    #[arg(long)]
    pub list: bool,
    /// Only verify what is there.
    #[arg(long)]
    pub verify: bool,
    /// Take the files from this folder or below this address instead of where they are published. Known parts of
    /// sets are accepted from it, and marked PARTIAL.
    #[arg(long, value_name = "DIR_OR_URL")]
    pub mirror: Option<String>,
    /// Where to put them, a folder per dataset [default: `DML_DATA_DIR`, else `data` of the workspace].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Files at a time.
    #[arg(long, default_value_t = 4)]
    pub jobs: usize,
    /// Seconds for which a server may send nothing.
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
    /// Where an address fails, try the Hugging Face hub's own client; takes minutes to build, the first time.
    #[arg(long)]
    pub hub: bool,
}

#[derive(Debug, clap::Args)]
pub struct Bench {
    /// The peer; without one the crates' micro-benchmarks run, those whose names contain a pattern of `--cases`.
    #[arg(long, value_enum)]
    pub against: Option<Peer>,
    /// Only the cases whose ids contain this; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub cases: Vec<String>,
    /// Only list the cases of `--against`.
    #[arg(long)]
    pub list: bool,
    /// Timed repetitions of each side, in turns; fewer where one takes seconds.
    #[arg(long, default_value_t = 15)]
    pub repetitions: usize,
    /// Threads of each side.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// The interpreter that has `xtask/peers/requirements.txt` [default: `DML_PEER_PYTHON`, else `python3`].
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// Also write the results here, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// PyTorch, and pytorch-metric-learning for its losses.
    Pytorch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The bundled digits: metric learning, closed-set and zero-shot, and directed retrieval. Minutes.
    Quick,
    /// Metric learning on MNIST, Fashion-MNIST, CIFAR-10, SVHN and STL-10. Some 20 minutes for three of them.
    Paper,
}
