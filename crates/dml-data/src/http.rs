//! One HTTP request for the rest of a file, with what a download needs to know of the answer.

use std::{io::Read, path::PathBuf, time::Duration};

use ureq::{
    Agent, Proxy,
    http::{HeaderMap, StatusCode},
};

/// How the network is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The proxy for `http` addresses, e.g. `http://user:password@host:3128`; tunnelled with CONNECT.
    pub http_proxy: Option<String>,
    /// The proxy for `https` addresses.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without proxy, and `.domain` or `*.domain` for all below one, or `*`.
    pub no_proxy: Vec<String>,
    /// What takes the place of `https://huggingface.co` in addresses.
    pub hub_endpoint: Option<String>,
    /// A PEM file with the certificates of the authorities to trust, in place of the usual ones: where a proxy signs
    /// for all others, or a mirror for itself.
    pub certificates: Option<PathBuf>,
    /// How long a connection may take, and how long a server may send nothing.
    pub timeout: Duration,
    /// How often an address is tried again without getting further.
    pub retries: u32,
    /// How long to wait before the first of these; twice as long before each other.
    pub backoff: Duration,
}

impl Default for Network {
    /// No proxy, 30 s of patience, 4 retries, the first after half a second.
    fn default() -> Self {
        Self {
            http_proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
            hub_endpoint: None,
            certificates: None,
            timeout: Duration::from_secs(30),
            retries: 4,
            backoff: Duration::from_millis(500),
        }
    }
}

impl Network {
    /// As the environment says: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` in upper or lower case,
    /// `HF_ENDPOINT` and `SSL_CERT_FILE`.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let found = variable(&name.to_lowercase()).or_else(|| variable(name));
            found.filter(|value| !value.trim().is_empty())
        };
        let no_proxy = either("NO_PROXY").unwrap_or_default();
        Self {
            http_proxy: either("HTTP_PROXY").or_else(|| either("ALL_PROXY")),
            https_proxy: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            no_proxy: no_proxy
                .split(',')
                .map(|host| host.trim().to_owned())
                .filter(|h| !h.is_empty())
                .collect(),
            hub_endpoint: variable("HF_ENDPOINT").filter(|value| !value.trim().is_empty()),
            certificates: variable("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from),
            ..Self::default()
        }
    }

    /// `url`, at the endpoint of the hub that was chosen if it lies on the hub.
    pub(crate) fn resolve(&self, url: &str) -> String {
        match (&self.hub_endpoint, url.strip_prefix("https://huggingface.co/")) {
            (Some(endpoint), Some(path)) => format!("{}/{path}", endpoint.trim_end_matches('/')),
            _ => url.to_owned(),
        }
    }

    fn proxy(&self, url: &str) -> Option<&str> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        // A port follows the last colon, unless that belongs to an IPv6 address.
        let host =
            host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(host, _)| host);
        let direct = self.no_proxy.iter().any(|pattern| {
            let below = pattern.trim_start_matches('*');
            pattern == "*"
                || host.eq_ignore_ascii_case(pattern)
                || (below.starts_with('.') && host.to_lowercase().ends_with(&below.to_lowercase()))
        });
        let proxy = if scheme.eq_ignore_ascii_case("https") { &self.https_proxy } else { &self.http_proxy };
        proxy.as_deref().filter(|_| !direct)
    }
}

/// An answer with a body.
pub(crate) struct Answer {
    /// Where in the file the body begins.
    pub(crate) start: u64,
    /// The length of the whole file, where the server says it.
    pub(crate) total: Option<u64>,
    /// A strong entity tag, else the time of the last change: what the file is recognized by.
    pub(crate) validator: Option<String>,
    /// The bytes from `start` on.
    pub(crate) body: Box<dyn Read>,
}

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The range begins at or beyond the end of the file.
    BeyondTheEnd,
    /// Trying again is of no use.
    Final(String),
    /// Trying again may help.
    Passing(String),
}

/// Asks for the file at `url` from byte `from` on; with a `validator`, only if it is still the same file.
pub(crate) fn get(
    network: &Network,
    url: &str,
    from: u64,
    validator: Option<&str>,
) -> Result<Answer, Refusal> {
    if url.starts_with("https://") && !cfg!(feature = "tls") {
        let why = "HTTPS is not compiled in (feature `tls` of dml-data; `cargo xtask download` turns it on)";
        return Err(Refusal::Final(why.to_owned()));
    }
    let proxy = match network.proxy(url) {
        Some(proxy) => match Proxy::new(proxy) {
            Ok(proxy) => Some(proxy),
            Err(e) => return Err(Refusal::Final(format!("the proxy `{proxy}` cannot be used ({e})"))),
        },
        None => None,
    };
    let config = Agent::config_builder();
    #[cfg(feature = "tls")]
    let config =
        config.tls_config(ureq::tls::TlsConfig::builder().root_certs(trusted(network, url)?).build());
    let agent: Agent = config
        .proxy(proxy)
        .http_status_as_error(false)
        .timeout_connect(Some(network.timeout))
        .timeout_recv_response(Some(network.timeout))
        .timeout_per_read(Some(network.timeout))
        .user_agent(concat!("dml-data/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity") // a .gz must arrive as it lies there
        .build()
        .into();
    let mut request = agent.get(url);
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-"));
        if let Some(validator) = validator {
            request = request.header("If-Range", validator);
        }
    }
    let response = request.call().map_err(|e| refusal(&e, network))?;
    let (status, headers) = (response.status(), response.headers());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (start, total) = match status {
        StatusCode::OK => (0, text("content-length").and_then(|n| n.parse().ok())),
        StatusCode::PARTIAL_CONTENT => match content_range(headers) {
            Some(range) => range,
            None => return Err(Refusal::Passing("a part without saying which".to_owned())),
        },
        StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => return Err(Refusal::BeyondTheEnd),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(Refusal::Passing(format!("the server answers {status}")));
        }
        _ if status.is_server_error() => {
            return Err(Refusal::Passing(format!("the server answers {status}")));
        }
        _ => return Err(Refusal::Final(format!("the server answers {status}"))),
    };
    let validator = text("etag").filter(|tag| !tag.starts_with("W/")).or_else(|| text("last-modified"));
    Ok(Answer { start, total, validator, body: Box::new(response.into_body().into_reader()) })
}

/// The authorities whose signature a server of `url` needs.
#[cfg(feature = "tls")]
fn trusted(network: &Network, url: &str) -> Result<ureq::tls::RootCerts, Refusal> {
    use ureq::tls::{PemItem, RootCerts, parse_pem};
    let Some(path) = &network.certificates else { return Ok(RootCerts::WebPki) };
    let read = || {
        let pem = std::fs::read(path).map_err(|e| format!("cannot be read ({e})"))?;
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| format!("are damaged ({e})"))? {
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() { Err("are none".to_owned()) } else { Ok(certificates) }
    };
    match read() {
        Ok(certificates) => Ok(certificates.into()),
        Err(why) if url.starts_with("https://") => Err(Refusal::Final(format!(
            "the certificates to trust, {}, {why}; let SSL_CERT_FILE name others",
            path.display()
        ))),
        Err(_) => Ok(RootCerts::WebPki), // a server without TLS needs none
    }
}

/// `bytes START-END/TOTAL`: start and total.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get("content-range")?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

fn refusal(error: &ureq::Error, network: &Network) -> Refusal {
    match error {
        ureq::Error::Timeout(_) => Refusal::Passing(stalled(network)),
        // A certificate that is not trusted will not be so the next time.
        ureq::Error::Io(e) if e.to_string().starts_with("invalid peer certificate") => {
            Refusal::Final(format!("{e}; SSL_CERT_FILE may name a PEM file of certificates to trust"))
        }
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Io(_)
        | ureq::Error::Protocol(_) => Refusal::Passing(error.to_string()),
        _ => Refusal::Final(error.to_string()),
    }
}

/// What a body that broke off is told of.
pub(crate) fn broken(error: &std::io::Error, network: &Network) -> String {
    let timeout = error.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>());
    let timeout = matches!(timeout, Some(ureq::Error::Timeout(_)));
    if timeout || matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock) {
        stalled(network)
    } else {
        format!("the connection broke off ({error})")
    }
}

fn stalled(network: &Network) -> String {
    format!("nothing came for {} s", network.timeout.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(variables: &[(&str, &str)]) -> Network {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Network::from_variables(&find)
    }

    #[test]
    fn proxies_follow_the_scheme_and_spare_the_hosts_named() {
        let network = network(&[
            ("HTTP_PROXY", "http://plain:1"),
            ("https_proxy", "http://secure:2"),
            ("NO_PROXY", "localhost, .inside.org,*.near.org"),
        ]);
        assert_eq!(network.proxy("http://a.org/x"), Some("http://plain:1"));
        assert_eq!(network.proxy("https://a.org:8443/x"), Some("http://secure:2"));
        for url in ["http://localhost:80/x", "https://a.inside.org/", "http://USER@b.near.org?x"] {
            assert_eq!(network.proxy(url), None, "{url}");
        }
        assert_eq!(network.proxy("http://inside.org/"), Some("http://plain:1"));
        assert_eq!(network.proxy("http://[::1]/"), Some("http://plain:1"));
    }

    #[test]
    fn one_proxy_for_all_and_none_for_none() {
        let all = network(&[("all_proxy", "http://p:1"), ("HTTPS_PROXY", " "), ("SSL_CERT_FILE", "own.pem")]);
        assert_eq!(all.certificates, Some("own.pem".into()));
        assert_eq!(all.proxy("https://a.org/"), Some("http://p:1"));
        assert_eq!(all.proxy("http://a.org/"), Some("http://p:1"));
        let none = network(&[("ALL_PROXY", "http://p:1"), ("no_proxy", "*")]);
        assert_eq!(none.proxy("http://a.org/"), None);
        assert_eq!(network(&[]), Network::default());
    }

    #[test]
    fn another_endpoint_serves_the_hub_and_nothing_else() {
        let network = network(&[("HF_ENDPOINT", "http://hub.local:8080/")]);
        assert_eq!(
            network.resolve("https://huggingface.co/datasets/a/b/resolve/main/c.tgz"),
            "http://hub.local:8080/datasets/a/b/resolve/main/c.tgz"
        );
        assert_eq!(network.resolve("https://example.org/c.tgz"), "https://example.org/c.tgz");
    }
}
