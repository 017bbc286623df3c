//! Downloads over HTTPS from a server of this machine, whose certificate an authority of the test's own signed.
//!
//! ```sh
//! cargo test -p dml-data --features tls --test https
//! ```
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dml_data::download::{self, FetchedFile, How, Network, Options};
use dml_data::{Against, Manifest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::Digest;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// 300 kB that do not repeat.
fn content() -> Vec<u8> {
    (0..75_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// Serves the content; the first answer ends after 100,000 bytes.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let certificate = CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let (config, requests) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).unwrap();
                _ = serve(StreamOwned::new(connection, stream), &log);
            }
        });
        Self { port, requests }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/file.mat", self.port)
    }
}

fn serve(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for line in BufReader::new(&mut stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        lines.push(line.to_lowercase());
    }
    let from =
        lines.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let first = {
        let mut log = log.lock().unwrap();
        log.push(format!("{} {from:?}", lines[0]));
        log.len() == 1
    };
    let (content, start) = (content(), from.unwrap_or(0));
    let total = content.len();
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\nETag: \"1\"\r\n\r\n",
        total - start,
        total - 1
    )?;
    stream.write_all(&content[start..if first { 100_000 } else { total }])?;
    if !first {
        stream.conn.send_close_notify();
    }
    stream.flush()
}

fn fetch(url: &str, certificates: Option<&str>, dir: &Path) -> dml_data::Result<FetchedFile> {
    let content = content();
    let sha256: String = sha2::Sha256::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
    let text = format!(
        "[[dataset]]\nname = \"set\"\ntitle = \"A file\"\nformat = \"svhn\"\nlicense = \"MIT\"\n\
         citation = \"nobody2020\"\nhomepage = \"https://example.org\"\nn_classes = 10\n\
         images = {{ train = 2, test = 1 }}\n[[dataset.file]]\nname = \"file.mat\"\nurls = [{url:?}]\n\
         content_bytes = {}\ncontent_sha256 = \"{sha256}\"\n",
        content.len()
    );
    let manifest = Manifest::parse(&text, Path::new("m.toml")).unwrap();
    let network = Network {
        certificates: certificates.map(fixture),
        timeout: Duration::from_secs(5),
        retries: 2,
        backoff: Duration::from_millis(1),
        ..Network::default()
    };
    let options = Options { network, ..Options::new(dir) };
    let fetched = download::fetch_all(&manifest, &["set"], &options).pop().unwrap();
    fetched.map(|mut fetched| fetched.files.pop().unwrap())
}

#[test]
fn a_cut_transfer_goes_on_and_ends_verified() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let file = fetch(&server.url("localhost"), Some("ca.pem"), dir.path()).unwrap();
    assert_eq!((file.how, file.against), (How::Downloaded, Against::Content));
    assert!(fs::read(file.path).unwrap() == content());
    let requests = server.requests.lock().unwrap().clone();
    assert_eq!(requests, ["get /file.mat http/1.1 None", "get /file.mat http/1.1 Some(100000)"]);
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused_at_once() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let message = |host: &str, certificates: Option<&str>| {
        let error = fetch(&server.url(host), certificates, dir.path()).unwrap_err();
        assert!(!dir.path().join("set/file.mat").exists());
        error.to_string()
    };
    // The usual authorities do not know it, neither does another one.
    for certificates in [None, Some("other.pem")] {
        let message = message("localhost", certificates);
        assert!(
            message.contains("invalid peer certificate: UnknownIssuer; SSL_CERT_FILE may name"),
            "{message}"
        );
        assert!(message.contains("(once)") || !message.contains("tries"), "{message}");
    }
    // It vouches for another name.
    let message_ = message("127.0.0.1", Some("ca.pem"));
    assert!(message_.contains("invalid peer certificate: certificate not valid for name"), "{message_}");
    assert!(
        message("localhost", Some("server.key")).contains("server.key, are none; let SSL_CERT_FILE name")
    );
    assert!(message("localhost", Some("nothing.pem")).contains("nothing.pem, cannot be read ("));
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn a_server_that_speaks_no_tls_is_an_error() {
    let (listener, dir) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            _ = stream.read(&mut [0; 1024]);
        }
    });
    let message = fetch(&format!("https://localhost:{port}/file.mat"), Some("ca.pem"), dir.path())
        .unwrap_err()
        .to_string();
    assert!(message.contains(&format!("https://localhost:{port}/file.mat: ")), "{message}");
    assert!(!dir.path().join("set/file.mat").exists());
}
