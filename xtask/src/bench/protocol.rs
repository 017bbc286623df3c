//! What is said between the benchmark and a worker: a request a line, a reply a line.
//!
//! `load ID FILE` → `ready`, `check FILE` → `checked`, `time N` → `timed SECONDS` of one pass; `error MESSAGE`
//! where a request fails.

use std::fmt;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use super::case;
use super::workload::Workload;

/// What is asked of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Build the case of this id from the tensors of a file.
    Load { id: String, file: PathBuf },
    /// One pass, whose value and gradients go to a file.
    Check { file: PathBuf },
    /// So many passes on the clock.
    Time { passes: u32 },
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The case is built.
    Ready,
    /// Value and gradients are written.
    Checked,
    /// The seconds of one pass.
    Timed(f64),
    /// The request failed.
    Error(String),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { id, file } => write!(f, "load {id} {}", file.display()),
            Self::Check { file } => write!(f, "check {}", file.display()),
            Self::Time { passes } => write!(f, "time {passes}"),
        }
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let (verb, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        match (verb, rest.split_once(' ')) {
            ("load", Some((id, file))) => Ok(Self::Load { id: id.to_owned(), file: file.into() }),
            ("check", _) if !rest.is_empty() => Ok(Self::Check { file: rest.into() }),
            ("time", None) if rest.parse::<u32>().is_ok_and(|n| n > 0) => {
                Ok(Self::Time { passes: rest.parse()? })
            }
            _ => anyhow::bail!("request `{line}`, expected `load ID FILE`, `check FILE` or `time N`"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Checked => f.write_str("checked"),
            Self::Timed(seconds) => write!(f, "timed {seconds:e}"),
            Self::Error(message) => {
                write!(f, "error {}", message.split_whitespace().collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl FromStr for Reply {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let (verb, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        match verb {
            "ready" => Ok(Self::Ready),
            "checked" => Ok(Self::Checked),
            "error" => Ok(Self::Error(rest.to_owned())),
            "timed" if rest.parse::<f64>().is_ok_and(|s| s.is_finite() && s >= 0.0) => {
                Ok(Self::Timed(rest.parse()?))
            }
            _ => anyhow::bail!(
                "reply `{line}`, expected `ready`, `checked`, `timed SECONDS` or `error MESSAGE`"
            ),
        }
    }
}

/// Our worker: answers requests until there are no more.
///
/// # Errors
/// When `input` cannot be read or `output` written. A request that fails is answered and does not end it.
pub fn serve(input: impl BufRead, mut output: impl Write) -> anyhow::Result<()> {
    let mut workload = None;
    for line in input.lines() {
        let reply = answer(&mut workload, &line?).unwrap_or_else(|error| Reply::Error(format!("{error:#}")));
        writeln!(output, "{reply}")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(workload: &mut Option<Workload>, line: &str) -> anyhow::Result<Reply> {
    match (line.parse()?, workload) {
        (Request::Load { id, file }, workload) => {
            *workload = None; // what the last case held is given back first
            *workload = Some(Workload::load(&case::find(&id)?, &file)?);
            Ok(Reply::Ready)
        }
        (_, None) => anyhow::bail!("no case is loaded"),
        (Request::Check { file }, Some(workload)) => {
            candle_core::safetensors::save(&workload.check()?, file)?;
            Ok(Reply::Checked)
        }
        (Request::Time { passes }, Some(workload)) => {
            let start = Instant::now();
            for _ in 0..passes {
                workload.run()?;
            }
            Ok(Reply::Timed(start.elapsed().as_secs_f64() / f64::from(passes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_survive_the_line() {
        let requests = [
            Request::Load { id: "a/b/c/f32".to_owned(), file: "a folder/in.safetensors".into() },
            Request::Check { file: "a folder/out.safetensors".into() },
            Request::Time { passes: 3 },
        ];
        for request in requests {
            assert_eq!(request.to_string().parse::<Request>().unwrap(), request);
        }
        let replies = [Reply::Ready, Reply::Checked, Reply::Timed(1.25e-3), Reply::Error("no x".to_owned())];
        for reply in replies {
            assert_eq!(reply.to_string().parse::<Reply>().unwrap(), reply);
        }
        assert_eq!(Reply::Error("a\nb".to_owned()).to_string(), "error a b");
    }

    #[test]
    fn lines_of_another_form_are_named() {
        let expected = ", expected `load ID FILE`, `check FILE` or `time N`";
        for line in ["", "load a", "check", "time", "time 0", "time -1", "stop"] {
            let error = line.parse::<Request>().unwrap_err().to_string();
            assert_eq!(error, format!("request `{line}`{expected}"));
        }
        let expected = ", expected `ready`, `checked`, `timed SECONDS` or `error MESSAGE`";
        for line in ["", "timed", "timed NaN", "timed -1", "Traceback"] {
            let error = line.parse::<Reply>().unwrap_err().to_string();
            assert_eq!(error, format!("reply `{line}`{expected}"));
        }
    }

    #[test]
    fn a_worker_answers_each_request() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let (input, output) = (folder.path().join("in"), folder.path().join("out"));
        let case = case::find("objective/icnn-hardest-triplet/n128_d64/f32")?;
        Workload::seeded(&case)?.save(&input)?;
        let requests = [
            "time 1".to_owned(),
            Request::Load { id: case.id, file: input }.to_string(),
            Request::Check { file: output.clone() }.to_string(),
            "time 1".to_owned(),
        ];
        let mut replies = Vec::new();
        serve(requests.join("\n").as_bytes(), &mut replies)?;
        let replies = String::from_utf8(replies)?;
        let lines: Vec<&str> = replies.lines().collect();
        assert_eq!(lines[..3], ["error no case is loaded", "ready", "checked"]);
        assert!(matches!(lines[3].parse()?, Reply::Timed(_)), "{replies}");
        let results = candle_core::safetensors::load(output, &candle_core::Device::Cpu)?;
        assert!(results.contains_key("value") && results.contains_key("grad.W0"), "{:?}", results.keys());
        Ok(())
    }
}
