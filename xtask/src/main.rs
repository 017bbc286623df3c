//! Automation of the workspace. `cargo xtask help` lists the commands.

mod bench;
mod download;
mod flags;
mod golden;
mod reproduce;
#[cfg(test)]
mod tidy;

use std::process::ExitCode;

use clap::Parser as _;
use flags::{Command, Flags};

/// A training step allocates and frees the same large tensors again and again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dml_kernels::settle_threads();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let result = match Flags::parse().command {
        Command::Reproduce(flags) => reproduce::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Download(flags) => download::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Bench(flags) => {
            bench::run(&flags, &mut std::io::stdout().lock()).map(|()| ExitCode::SUCCESS)
        }
        Command::BenchWorker => {
            bench::serve(std::io::stdin().lock(), std::io::stdout().lock()).map(|()| ExitCode::SUCCESS)
        }
        Command::Golden { dir } => golden::run(&dir, &mut std::io::stdout().lock())
            .map(|summary| if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
