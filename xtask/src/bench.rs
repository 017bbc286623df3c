//! `cargo xtask bench`: the micro-benchmarks of the crates, or, with `--against`, the same work here and in a peer,
//! side by side, and the ratio of the medians.
//!
//! Both sides are processes that stay alive while a case runs and answer one request at a time, so starting them is
//! outside the clock. They begin with the same weights and inputs; a case is timed only when value and gradients
//! agree. Repetitions alternate, ours and theirs, on the same number of threads.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use candle_core::Device;

use crate::flags::{Bench, Peer};
use case::Case;
use protocol::Request;
use record::{Measured, Record, Times};
use worker::Worker;
use workload::Workload;

mod case;
mod loader;
mod losses;
mod protocol;
mod record;
mod worker;
mod workload;

pub use protocol::serve;

/// The hidden command that is our worker.
pub const WORKER: &str = "bench-worker";
/// Names the Python interpreter of the peer.
const PYTHON_VARIABLE: &str = "DML_PEER_PYTHON";
/// The time that each side warms up for, with at least [`WARM_UP_PASSES`] passes unless one takes longer.
const WARM_UP: Duration = Duration::from_millis(500);
const WARM_UP_PASSES: usize = 5;
/// A repetition lasts at least so long, in as many passes as that takes.
const REPETITION_S: f64 = 0.02;
/// Between turns, until threads of the other side that wait for work by spinning have gone to sleep.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs the benchmark and prints a line a case to `out`.
///
/// # Errors
/// When a worker cannot be started or a file cannot be written; what fails in a case is its line.
pub fn run(flags: &Bench, out: &mut dyn Write) -> anyhow::Result<()> {
    if flags.against.is_none() && !flags.list {
        return micro(&flags.cases);
    }
    let cases: Vec<Case> = case::all().into_iter().filter(|case| matches(&flags.cases, &case.id)).collect();
    anyhow::ensure!(!cases.is_empty(), "no case matches the pattern; `cargo xtask bench --list` names them");
    if flags.list {
        for case in cases {
            writeln!(out, "{}", case.id)?;
        }
        return Ok(());
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut record = Record {
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        commit: commit(),
        cpu: cpu(),
        threads: flags.threads,
        load: load(),
        cases: Vec::new(),
    };
    writeln!(out, "{}", record::head())?;
    for case in &cases {
        let measured = measure(case, flags, folder.path())
            .unwrap_or_else(|error| Measured::failure(&case.id, format!("{error:#}")));
        writeln!(out, "{}", measured.line())?;
        out.flush()?;
        record.cases.push(measured);
        if let Some(file) = &flags.json {
            let json = serde_json::to_vec_pretty(&record)?;
            dml::atomic::write(file, &json)
                .with_context(|| format!("{}: cannot be written", file.display()))?;
        }
    }
    Ok(())
}

/// Runs the crates' benchmark targets in the one profile that everything else is compiled in.
fn micro(patterns: &[String]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["bench", "--profile", "dev", "--workspace", "--bench", "*", "--"];
    let status = Command::new(&cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .args(patterns)
        .status()
        .with_context(|| format!("{}: cannot be started", cargo.to_string_lossy()))?;
    anyhow::ensure!(status.success(), "a benchmark failed; what it wrote stands above");
    Ok(())
}

/// Whether an id contains one of the patterns; all do where there are none.
fn matches(patterns: &[String], id: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| id.contains(pattern.as_str()))
}

fn measure(case: &Case, flags: &Bench, folder: &Path) -> anyhow::Result<Measured> {
    let input = folder.join("input.safetensors");
    Workload::seeded(case)?.save(&input)?;
    let mut ours = Command::new(std::env::current_exe().context("cannot find this program")?);
    let mut workers = vec![Worker::start("ours", ours.arg(WORKER), flags.threads)?];
    if let Some(Peer::Pytorch) = flags.against
        && case.peer
    {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/pytorch.py");
        workers.push(Worker::start("pytorch", Command::new(python(flags)).arg(script), flags.threads)?);
    }
    let mut results = Vec::new();
    for worker in &mut workers {
        worker.ask(&Request::Load { id: case.id.clone(), file: input.clone() })?;
        let file = folder.join(format!("{}.safetensors", worker.name()));
        worker.ask(&Request::Check { file: file.clone() })?;
        results.push(candle_core::safetensors::load(&file, &Device::Cpu)?);
    }
    let difference = match results.as_slice() {
        [ours, theirs] => Some(record::agreement(ours, theirs, case.tolerance())?),
        _ => None,
    };
    let mut passes = Vec::new();
    for worker in &mut workers {
        passes.push(warm_up(worker)?);
    }
    let repetitions = flags.repetitions.clamp(1, case.most_repetitions);
    let mut times = vec![Vec::with_capacity(repetitions); workers.len()];
    for _ in 0..repetitions {
        for ((worker, times), &passes) in workers.iter_mut().zip(&mut times).zip(&passes) {
            sleep(PAUSE);
            times.push(worker.time(passes)?);
        }
    }
    let mut sides = workers.iter().zip(times).map(|(worker, times)| Times::of(times, worker.peak_bytes()));
    let (ours, theirs) = (sides.next().flatten(), sides.next().flatten());
    let ratio = ours.as_ref().zip(theirs.as_ref()).map(|(ours, theirs)| theirs.median_s / ours.median_s);
    Ok(Measured { id: case.id.clone(), failed: None, difference, ours, theirs, ratio })
}

/// Warms up and returns how many passes a repetition has.
fn warm_up(worker: &mut Worker) -> anyhow::Result<u32> {
    let start = Instant::now();
    let (mut fastest, mut done) = (f64::INFINITY, 0);
    while done == 0 || (start.elapsed() < WARM_UP || done < WARM_UP_PASSES) && start.elapsed() < 4 * WARM_UP {
        fastest = fastest.min(worker.time(1)?);
        done += 1;
    }
    Ok((REPETITION_S / fastest.max(1e-6)).ceil().max(1.0) as u32)
}

/// The interpreter that was asked for, else the variable's, else the system's.
fn python(flags: &Bench) -> PathBuf {
    let variable = || std::env::var_os(PYTHON_VARIABLE).map(PathBuf::from);
    flags.python.clone().or_else(variable).unwrap_or_else(|| "python3".into())
}

fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new("git").current_dir(root).args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_part_of_an_id() {
        assert!(matches(&[], "loss/circle/n512_d128/f32"));
        assert!(matches(&["step/".to_owned(), "circle".to_owned()], "loss/circle/n512_d128/f32"));
        assert!(!matches(&["step/".to_owned()], "loss/circle/n512_d128/f32"));
    }

    #[test]
    fn the_list_has_a_line_a_case() -> anyhow::Result<()> {
        let flags = Bench {
            against: None,
            cases: Vec::new(),
            list: true,
            repetitions: 1,
            threads: 1,
            python: None,
            json: None,
        };
        let mut out = Vec::new();
        run(&flags, &mut out)?;
        assert_eq!(String::from_utf8(out)?.lines().count(), case::all().len());
        let none = Bench { cases: vec!["nothing like it".to_owned()], against: Some(Peer::Pytorch), ..flags };
        let message = run(&none, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(message, "no case matches the pattern; `cargo xtask bench --list` names them");
        Ok(())
    }
}
