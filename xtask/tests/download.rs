//! `xtask download` as a process: killed in the middle it leaves nothing that looks complete, and a second call ends
//! with the verified file.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const IMAGES: &str = "images-idx3-ubyte.gz";

/// The bundled digits behind an address; while `stuck`, a file stops after a third of it with the connection open.
struct Server {
    address: String,
    stuck: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<String>>>,
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/mnist-5k")
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stuck, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let server = Self { address, stuck: stuck.clone(), requests: requests.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (stuck, requests) = (stuck.clone(), requests.clone());
                std::thread::spawn(move || _ = serve(&stream, &stuck, &requests));
            }
        });
        server
    }
}

fn serve(mut stream: &TcpStream, stuck: &AtomicBool, requests: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let lines: Vec<String> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let name = lines[0].split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
    let content = fs::read(digits().join(&name))?;
    let range = lines.iter().find_map(|line| {
        line.to_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
    });
    requests.lock().unwrap().push(format!("{name} {range:?}"));
    let (from, total) = (range.unwrap_or(0).min(content.len()), content.len());
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{total}\r\nETag: \"1\"\r\n\r\n",
        total - from,
        total - 1
    )?;
    if stuck.load(Ordering::Relaxed) && name == IMAGES {
        stream.write_all(&content[from..from.max(total / 3)])?;
        std::thread::sleep(Duration::from_secs(60));
    }
    stream.write_all(&content[from..])
}

fn download(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("download").args(arguments);
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DML_DATA_DIR"] {
        command.env_remove(variable);
    }
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn killed_in_the_middle_and_called_again() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let (set, folder) = (dir.path().join("mnist-5k"), dir.path().to_str().unwrap());
    let arguments = ["mnist-5k", "--mirror", &server.address, "--dir", folder];
    server.stuck.store(true, Ordering::Relaxed);
    let mut process = download(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (part, total) =
        (set.join(format!(".{IMAGES}.part")), fs::metadata(digits().join(IMAGES)).unwrap().len());
    // Wait until the third has arrived, then kill it the hard way.
    while fs::metadata(&part).map_or(0, |part| part.len()) < total / 3 {
        assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!set.join(IMAGES).exists());

    let verify = download(&["mnist-5k", "--verify", "--dir", folder]).output().unwrap();
    assert!(!verify.status.success());
    assert!(text(&verify).contains("fetch it without verifying only"), "{}", text(&verify));

    server.stuck.store(false, Ordering::Relaxed);
    let again = download(&arguments).output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("downloaded, verified by its content, 806409 bytes"), "{}", text(&again));
    let requests = server.requests.lock().unwrap().clone();
    assert!(requests.contains(&format!("{IMAGES} {:?}", Some(total / 3))), "{requests:?}");
    assert!(fs::read(set.join(IMAGES)).unwrap() == fs::read(digits().join(IMAGES)).unwrap());

    let verify = download(&["mnist-5k", "--verify", "--dir", folder]).output().unwrap();
    assert!(verify.status.success(), "{}", text(&verify));
    let mut names: Vec<_> =
        fs::read_dir(set).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [IMAGES, "labels-idx1-ubyte.gz"]);
}

#[test]
fn the_list_names_every_set_and_what_is_odd_about_it() {
    let output = download(&["--list"]).output().unwrap();
    let list = text(&output);
    assert!(output.status.success());
    assert_eq!(list.lines().count(), 16, "{list}");
    let line = |name: &str| list.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    assert!(line("mnist-5k").contains("[comes with the workspace]"));
    assert!(line("cifar10-5k-jpeg").contains("[PARTIAL]"));
    assert!(line("inshop").contains("[no published checksum]  [by hand or mirror only]"));
    assert!(line("stl10").contains("113000 images") && line("stl10").contains("2640.4 MB"));
    let unknown = download(&["birds"]).output().unwrap();
    assert!(!unknown.status.success());
    assert!(text(&unknown).contains("dataset `birds` is not in the manifest"), "{}", text(&unknown));
}
