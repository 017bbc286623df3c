//! A worker: a process that computes one side of a case when asked, with its start outside the clock.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;

use super::protocol::{Reply, Request};

/// What sets the number of threads in either process. Ours settles those of candle by itself.
const THREADS: [&str; 3] = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"];

/// A running worker; it ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    name: &'static str,
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts `command` as the worker `name` on so many threads.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &mut Command, threads: usize) -> anyhow::Result<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(THREADS.map(|variable| (variable, threads.to_string())));
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let (requests, replies) = (child.stdin.take(), child.stdout.take());
        let requests = requests.context("the worker has no input")?;
        let replies = BufReader::new(replies.context("the worker has no output")?);
        Ok(Self { name, child, requests, replies })
    }

    /// Its name in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the worker is gone, or the request failed there.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let name = self.name;
        writeln!(self.requests, "{request}").with_context(|| format!("{name} ended before `{request}`"))?;
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "{name} ended during `{request}`; what it wrote stands above");
        match line.trim_end().parse()? {
            Reply::Error(message) => anyhow::bail!("{name}: {message}"),
            reply => Ok(reply),
        }
    }

    /// The seconds of one pass out of so many.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn time(&mut self, passes: u32) -> anyhow::Result<f64> {
        match self.ask(&Request::Time { passes })? {
            Reply::Timed(seconds) => Ok(seconds),
            other => anyhow::bail!("{}: answered `{other}`, expected `timed SECONDS`", self.name),
        }
    }

    /// The largest resident set of the process until now, in bytes, where the system tells.
    pub fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim_end().parse().ok()?;
        Some(kib * 1024)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Nothing is lost by ending it, and an error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
