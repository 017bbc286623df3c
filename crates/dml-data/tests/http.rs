//! Downloads from a server that misbehaves: each ends in a verified file or in a clear error.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dml_data::{
    Against, Manifest, Unknown,
    download::{self, FetchedFile, How, Mirror, Network, Options},
};

/// What a server does with the n-th request (from 0), which asks for bytes from `from` on.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// As a good server does.
    Good,
    /// A range is honoured, but the connection ends after so many bytes.
    Cut(usize),
    /// The whole file, whatever was asked for; cut after so many bytes.
    IgnoreRange(usize),
    /// The right number of wrong bytes.
    Wrong,
    /// Half of what is asked for, then nothing, with the connection open.
    Stall,
    /// Nothing at all, with the connection open.
    Silent,
    /// This status and a page.
    Status(u16),
    /// A part that begins elsewhere.
    WrongPart,
    /// No length: the end of the connection is the end of the file. Cut after so many bytes.
    NoLength(usize),
    /// The file with another entity tag, as if it had been replaced; a range for the old one is not honoured.
    Replaced,
    /// Chunks without end.
    Endless,
    /// To the address `/moved/FILE`.
    Redirect,
    /// Not even HTTP.
    Garbage,
}

/// A server on this machine, which answers as `plan` says; the last answer repeats.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(content: Vec<u8>, plan: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, n, content) = (requests.clone(), AtomicUsize::new(0), Arc::new(content));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let i = n.fetch_add(1, Ordering::Relaxed);
                let answer = plan[i.min(plan.len() - 1)];
                let (log, content) = (log.clone(), content.clone());
                std::thread::spawn(move || _ = serve(stream, answer, &content, &log));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answer: Answer, content: &[u8], log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let prefix = format!("{name}:");
        let line = lines.iter().find(|line| line.to_lowercase().starts_with(&prefix))?;
        Some(line[prefix.len()..].trim().to_owned())
    };
    let range = header("range");
    let from =
        range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    log.lock().unwrap().push(format!("{} {}", lines[0], range.unwrap_or_default()).trim().to_owned());
    let mut out = &stream;
    let (total, tag) =
        (content.len(), if matches!(answer, Answer::Replaced) { "\"new\"" } else { "\"old\"" });
    let stale = header("if-range").is_some_and(|validator| validator != tag);
    let honoured = from.filter(|_| !stale && !matches!(answer, Answer::IgnoreRange(_)));
    let head = |start: usize| match honoured {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\n\
             ETag: {tag}\r\n\r\n",
            total - start,
            total - 1
        ),
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\nETag: {tag}\r\n\r\n"),
    };
    if from.is_some_and(|from| from >= total) && !matches!(answer, Answer::IgnoreRange(_)) {
        write!(out, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    }
    let start = honoured.unwrap_or(0);
    let wait = || std::thread::sleep(Duration::from_secs(20));
    match answer {
        Answer::Good | Answer::Replaced => {
            out.write_all(head(start).as_bytes())?;
            out.write_all(&content[start..])?;
        }
        Answer::Cut(n) | Answer::IgnoreRange(n) => {
            out.write_all(head(start).as_bytes())?;
            out.write_all(&content[start..(start + n).min(total)])?;
        }
        Answer::Wrong => {
            out.write_all(head(start).as_bytes())?;
            out.write_all(&vec![7; total - start])?;
        }
        Answer::Stall => {
            out.write_all(head(start).as_bytes())?;
            out.write_all(&content[start..start + (total - start) / 2])?;
            out.flush()?;
            wait();
        }
        Answer::Silent => wait(),
        Answer::Status(status) => {
            let page = "<html>no</html>";
            write!(out, "HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n{page}", page.len())?;
        }
        Answer::WrongPart => {
            let at = if from.is_some() { start + 1 } else { 0 };
            out.write_all(head(at).as_bytes())?;
            out.write_all(&content[at..])?;
        }
        Answer::NoLength(n) => {
            write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            out.write_all(&content[..n.min(total)])?;
        }
        Answer::Endless => {
            write!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                write!(out, "8000\r\n")?;
                out.write_all(&[7; 0x8000])?;
                write!(out, "\r\n")?;
            }
        }
        Answer::Redirect => {
            let file = lines[0].split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
            // Without `close` the next request may be sent on this connection, which ends here.
            let head = "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0";
            write!(out, "{head}\r\nLocation: /moved/{file}\r\n\r\n")?;
        }
        Answer::Garbage => out.write_all(b"\x00\x01\x02 220 ftp ready\r\n\r\n")?,
    }
    out.flush()?;
    stream.shutdown(Shutdown::Both)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// 300 kB that do not repeat.
fn content() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..300_000).map(|_| next()).collect()
}

fn manifest(content: &[u8], urls: &[String]) -> Manifest {
    let text = format!(
        r#"
[[dataset]]
name = "set"
title = "A file"
format = "svhn"
license = "MIT"
citation = "nobody2020"
homepage = "https://example.org"
n_classes = 10
images = {{ train = 2, test = 1 }}
[[dataset.file]]
name = "file.mat"
urls = {urls:?}
content_bytes = {}
content_sha256 = "{}"
"#,
        content.len(),
        sha256(content)
    );
    Manifest::parse(&text, Path::new("m.toml")).unwrap()
}

struct Case {
    dir: tempfile::TempDir,
    manifest: Manifest,
    network: Network,
}

impl Case {
    fn new(servers: &[&Server]) -> Self {
        let urls: Vec<String> = servers.iter().map(|server| format!("{}/file.mat", server.address)).collect();
        let network = Network {
            timeout: Duration::from_millis(300),
            retries: 2,
            backoff: Duration::from_millis(1),
            ..Network::default()
        };
        Self { dir: tempfile::tempdir().unwrap(), manifest: manifest(&content(), &urls), network }
    }

    fn fetch(&self) -> dml_data::Result<FetchedFile> {
        let options = Options { network: self.network.clone(), ..Options::new(self.dir.path()) };
        let fetched = download::fetch_all(&self.manifest, &["set"], &options).pop().unwrap();
        fetched.map(|mut fetched| fetched.files.pop().unwrap())
    }

    /// Fetches, and checks that the right file lies in its place, alone but for `others`.
    fn succeeds(&self, others: &[&str]) -> FetchedFile {
        let file = self.fetch().unwrap();
        assert_eq!((file.how, file.against), (How::Downloaded, Against::Content));
        assert!(fs::read(&file.path).unwrap() == content());
        let mut expected = vec!["file.mat"];
        expected.extend(others);
        assert_eq!(self.files(), expected);
        assert_eq!(self.fetch().unwrap().how, How::AlreadyThere);
        file
    }

    /// Fetches in vain, and checks that nothing lies in the place of the file.
    fn fails(&self) -> String {
        let message = self.fetch().unwrap_err().to_string();
        assert!(!self.path("file.mat").exists());
        message
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("set").join(name)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("set")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_good_server_is_asked_once() {
    let server = Server::start(content(), vec![Answer::Good]);
    Case::new(&[&server]).succeeds(&[]);
    assert_eq!(server.requests(), ["GET /file.mat HTTP/1.1"]);
}

#[test]
fn a_cut_connection_goes_on_where_it_stopped() {
    let server = Server::start(content(), vec![Answer::Cut(100_000), Answer::Cut(100_000), Answer::Good]);
    Case::new(&[&server]).succeeds(&[]);
    let get = "GET /file.mat HTTP/1.1";
    assert_eq!(
        server.requests(),
        [get.to_owned(), format!("{get} bytes=100000-"), format!("{get} bytes=200000-"),]
    );
}

#[test]
fn a_part_from_a_killed_process_is_gone_on_with() {
    let server = Server::start(content(), vec![Answer::Good]);
    let case = Case::new(&[&server]);
    fs::create_dir_all(case.path("")).unwrap();
    fs::write(case.path(".file.mat.part"), &content()[..250_000]).unwrap();
    let origin = format!("url = \"{}/file.mat\"\nvalidator = '\"old\"'\ntotal = 300000\n", server.address);
    fs::write(case.path(".file.mat.part.from"), origin).unwrap();
    case.succeeds(&[]);
    assert_eq!(server.requests(), ["GET /file.mat HTTP/1.1 bytes=250000-"]);
}

#[test]
fn a_part_of_unknown_origin_is_not_trusted() {
    let server = Server::start(content(), vec![Answer::Good]);
    let case = Case::new(&[&server]);
    fs::create_dir_all(case.path("")).unwrap();
    fs::write(case.path(".file.mat.part"), [7; 1000]).unwrap();
    case.succeeds(&[]);
    assert_eq!(server.requests(), ["GET /file.mat HTTP/1.1"]);
}

#[test]
fn pieces_of_a_file_without_checksum_are_put_together_only_where_the_server_says_that_they_belong() {
    let server = Server::start(content(), vec![Answer::Good]);
    for (validator, request) in
        [("validator = '\"old\"'\n", "GET /file.mat HTTP/1.1 bytes=1000-"), ("", "GET /file.mat HTTP/1.1")]
    {
        let mut case = Case::new(&[&server]);
        let file = &mut case.manifest.datasets[0].files[0];
        (file.content_sha256, file.content_bytes) = (None, None);
        (file.content, file.archive) = (Some(Unknown::Unknown), Some(Unknown::Unknown));
        fs::create_dir_all(case.path("")).unwrap();
        fs::write(case.path(".file.mat.part"), &content()[..1000]).unwrap();
        let origin = format!("url = \"{}/file.mat\"\n{validator}total = 300000\n", server.address);
        fs::write(case.path(".file.mat.part.from"), origin).unwrap();
        assert_eq!(case.fetch().unwrap().against, Against::Nothing);
        assert!(fs::read(case.path("file.mat")).unwrap() == content());
        assert_eq!(server.requests().last().unwrap(), request);
    }
}

#[test]
fn a_complete_part_needs_no_more_than_a_look() {
    let server = Server::start(content(), vec![Answer::Good]);
    let case = Case::new(&[&server]);
    fs::create_dir_all(case.path("")).unwrap();
    fs::write(case.path(".file.mat.part"), content()).unwrap();
    let origin = format!("url = \"{}/file.mat\"\ntotal = 300000\n", server.address);
    fs::write(case.path(".file.mat.part.from"), origin).unwrap();
    case.succeeds(&[]);
    assert_eq!(server.requests(), ["GET /file.mat HTTP/1.1 bytes=300000-"]);
}

#[test]
fn a_server_that_ignores_ranges_starts_over() {
    let server = Server::start(content(), vec![Answer::Cut(100_000), Answer::IgnoreRange(usize::MAX)]);
    Case::new(&[&server]).succeeds(&[]);
    // One that also always cuts gets nowhere, and that is an error and no loop.
    let server = Server::start(content(), vec![Answer::IgnoreRange(100_000)]);
    let message = Case::new(&[&server]).fails();
    assert!(message.contains("the connection broke off"), "{message}");
    assert!(message.contains("(3 tries)"), "{message}");
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_mixed_with_the_old_one() {
    let server = Server::start(content(), vec![Answer::Cut(100_000), Answer::Replaced]);
    let file = Case::new(&[&server]).succeeds(&[]);
    assert_eq!(file.set_aside, [""; 0].map(PathBuf::from));
}

#[test]
fn wrong_bytes_are_set_aside_and_fetched_again() {
    let server = Server::start(content(), vec![Answer::Wrong, Answer::Good]);
    let case = Case::new(&[&server]);
    let file = case.succeeds(&["file.mat.bad"]);
    assert_eq!(file.set_aside, [case.path("file.mat.bad")]);
    // Damage in the middle of a transfer, too.
    let server = Server::start(content(), vec![Answer::Cut(100_000), Answer::Wrong, Answer::Good]);
    Case::new(&[&server]).succeeds(&["file.mat.bad"]);
}

#[test]
fn a_wrong_file_in_place_is_set_aside_and_fetched_again() {
    let server = Server::start(content(), vec![Answer::Good]);
    let case = Case::new(&[&server]);
    fs::create_dir_all(case.path("")).unwrap();
    fs::write(case.path("file.mat"), b"truncated").unwrap();
    case.succeeds(&["file.mat.bad"]);
    assert_eq!(fs::read(case.path("file.mat.bad")).unwrap(), b"truncated");
}

#[test]
fn a_server_that_never_has_the_right_file_is_named_and_the_next_address_asked() {
    let bad = Server::start(content(), vec![Answer::Wrong]);
    let case = Case::new(&[&bad]);
    let message = case.fails();
    let place = case.path("file.mat");
    assert!(message.starts_with(&format!("set: file.mat: {}/file.mat: {}: ", bad.address, place.display())));
    assert!(message.contains(&format!("content sha256 is {}", sha256(&vec![7; 300_000]))), "{message}");
    assert!(message.contains(&format!("the manifest says {}", sha256(&content()))), "{message}");
    assert!(message.contains("(twice); check the network and try again"), "{message}");
    assert_eq!(case.files(), ["file.mat.bad"]);
    let good = Server::start(content(), vec![Answer::Good]);
    Case::new(&[&bad, &good]).succeeds(&["file.mat.bad"]);
}

#[test]
fn a_stalled_connection_is_given_up_and_gone_on_with() {
    let server = Server::start(content(), vec![Answer::Stall, Answer::Good]);
    Case::new(&[&server]).succeeds(&[]);
    assert_eq!(server.requests()[1], "GET /file.mat HTTP/1.1 bytes=150000-");
    let silent = Server::start(content(), vec![Answer::Silent]);
    let message = Case::new(&[&silent]).fails();
    assert!(message.contains("nothing came for 0.3 s (3 tries)"), "{message}");
}

#[test]
fn what_a_server_answers_is_told_and_tried_again_only_where_that_helps() {
    for (status, tries) in [(404, 1), (403, 1), (500, 3), (503, 3), (429, 3)] {
        let server = Server::start(content(), vec![Answer::Status(status)]);
        let message = Case::new(&[&server]).fails();
        assert!(message.contains(&format!("the server answers {status}")), "{message}");
        assert_eq!(server.requests().len(), tries, "{status}");
    }
    let server = Server::start(content(), vec![Answer::Status(503), Answer::Good]);
    Case::new(&[&server]).succeeds(&[]);
}

#[test]
fn parts_that_do_not_fit_and_files_that_do_not_end_are_refused() {
    let server = Server::start(content(), vec![Answer::Cut(100_000), Answer::WrongPart]);
    // The wrong part is refused, the whole file taken.
    Case::new(&[&server]).succeeds(&[]);
    let server = Server::start(content(), vec![Answer::Endless]);
    let message = Case::new(&[&server]).fails();
    assert!(message.contains("and does not end"), "{message}");
}

#[test]
fn without_a_length_only_the_checksum_tells_that_the_end_is_the_end() {
    let server = Server::start(content(), vec![Answer::NoLength(usize::MAX)]);
    Case::new(&[&server]).succeeds(&[]);
    let server = Server::start(content(), vec![Answer::NoLength(1000)]);
    let message = Case::new(&[&server]).fails();
    assert!(message.contains("content length is 1000, the manifest says 300000"), "{message}");
}

#[test]
fn redirections_are_followed() {
    let server = Server::start(content(), vec![Answer::Redirect, Answer::Good]);
    Case::new(&[&server]).succeeds(&[]);
    assert_eq!(server.requests()[1], "GET /moved/file.mat HTTP/1.1");
}

#[test]
fn nobody_there_and_no_http_are_errors() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again
    let nobody = Server { address: format!("http://{port}"), requests: Arc::default() };
    let message = Case::new(&[&nobody]).fails();
    assert!(message.contains("file.mat: ") && message.contains("(3 tries)"), "{message}");
    let server = Server::start(content(), vec![Answer::Garbage]);
    Case::new(&[&server]).fails();
}

#[test]
fn a_proxy_is_asked_for_a_tunnel() {
    let server = Server::start(content(), vec![Answer::Good]);
    let target = server.address.trim_start_matches("http://").to_owned();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (client, _) = proxy.accept().unwrap();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        // Whatever host was asked for, the tunnel ends at the server of this test.
        let mut upstream = TcpStream::connect(target).unwrap();
        (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let (mut to, mut from) = (upstream.try_clone().unwrap(), reader);
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).unwrap();
        let _ = (&client).write_all(&answer);
        lines.remove(0)
    });
    let mut case = Case::new(&[&server]);
    case.manifest = manifest(&content(), &["http://far.example/file.mat".to_owned()]);
    case.network.http_proxy = Some(format!("http://{address}"));
    case.succeeds(&[]);
    assert_eq!(asked.join().unwrap(), "CONNECT far.example:80 HTTP/1.1");
}

#[test]
fn an_address_can_be_a_mirror_and_two_processes_do_not_mix() {
    let server = Server::start(content(), vec![Answer::Status(404), Answer::Good]);
    let case = Case::new(&[]);
    let mirror = Some(Mirror::Url(&server.address));
    let options = Options { mirror, network: case.network.clone(), ..Options::new(case.dir.path()) };
    // Held by another process, as far as this one can tell.
    fs::create_dir_all(case.path("")).unwrap();
    let held = fs::File::create(case.path(".file.mat.part")).unwrap();
    held.lock().unwrap();
    let message =
        download::fetch_all(&case.manifest, &["set"], &options).pop().unwrap().unwrap_err().to_string();
    assert_eq!(message, "set: file.mat: another process is fetching it; wait for that, or end it");
    drop(held);
    let fetched = download::fetch_all(&case.manifest, &["set"], &options).pop().unwrap().unwrap();
    assert_eq!(fetched.files[0].how, How::Downloaded);
    assert_eq!(server.requests(), ["GET /set/file.mat HTTP/1.1", "GET /file.mat HTTP/1.1"]);
}
