//! Where an instance lives: the URL of a server, or a place inside this process.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::explain::clip;
use super::plan::{EmbeddedKind, Protocol};

/// Port of an `http://` URL that names none, as the URL standard has it.
pub const HTTP_PORT: u16 = 80;
/// Port of a `grpc://` URL that names none: the conventional one of KServe and Triton servers.
pub const GRPC_PORT: u16 = 8001;

/// Longest host name that DNS allows.
const HOST_LENGTH_MAX: usize = 253;

/// The address of a server that speaks one of the protocols, without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstanceUrl {
    /// Host name or IP address; an IPv6 address stands here without its brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Path in front of the protocol's own paths: empty, or `/something` without a final slash.
    pub path_prefix: String,
}

impl InstanceUrl {
    /// `host:port` as it stands in a `Host` header, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Reads the URL of an instance that speaks `protocol`.
    ///
    /// The version that a protocol's own paths begin with (`/v1` of OpenAI and KServe v1, `/v2` of
    /// KServe v2) may end the URL, as in a client's base URL; it is dropped, because the paths carry it.
    ///
    /// # Errors
    /// [`AddressError`] says which part of the URL is not usable.
    pub fn parse(text: &str, protocol: Protocol) -> Result<Self, AddressError> {
        refuse_secrets(text)?;
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::NoScheme)?;
        let default_port = match scheme {
            "http" => HTTP_PORT,
            "grpc" if protocol == Protocol::KserveGrpc => GRPC_PORT,
            "grpc" => return Err(AddressError::GrpcScheme(protocol)),
            "https" | "grpcs" => return Err(AddressError::Tls),
            _ => return Err(AddressError::UnknownScheme(clip(scheme))),
        };
        let (authority, path) = split_path(rest);
        let (host, port) = split_authority(authority)?;
        let port = port.map_or(Ok(default_port), read_port)?;
        Ok(Self { host: host.to_owned(), port, path_prefix: read_prefix(path, protocol)? })
    }
}

impl fmt::Display for InstanceUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority(), self.path_prefix)
    }
}

/// Where an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstanceAddress {
    /// A server, spoken to over the network.
    Url(InstanceUrl),
    /// A model that runs inside this process.
    Embedded {
        /// Which of its model's instances it is, from 0.
        index: usize,
    },
}

/// Why an entry of `instances` is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `://`.
    #[error("it has no scheme")]
    NoScheme,
    /// `https://` or `grpcs://`.
    #[error("TLS to instances is not supported yet")]
    Tls,
    /// A scheme that is neither `http` nor `grpc`.
    #[error("the scheme `{0}` is not known")]
    UnknownScheme(String),
    /// `grpc://` with a protocol over HTTP.
    #[error("`grpc://` does not fit protocol `{0}`, which is spoken over HTTP")]
    GrpcScheme(Protocol),
    /// `user:password@`; it would show in metrics and logs.
    #[error("they would show in metrics and logs")]
    Credentials,
    /// `?query` or `#fragment`.
    #[error("calls have their own")]
    QueryOrFragment,
    /// Nothing where the host should be.
    #[error("it names no host")]
    NoHost,
    /// Not a host name, IPv4 address or bracketed IPv6 address.
    #[error("`{0}` is not a host name or IP address")]
    Host(String),
    /// Not a number from 1 to 65535.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// A path in front of gRPC calls.
    #[error("gRPC has no place for the path `{0}`")]
    GrpcPath(String),
    /// A path with blanks, control characters or `..`.
    #[error("`{0}` is not a usable path")]
    Path(String),
    /// Not one of the embedded models.
    #[error("there is no such embedded model")]
    UnknownModel,
    /// `onnx:` without a file.
    #[error("it names no file")]
    NoFile,
}

/// Reads an entry of `instances` of an embedded model: `digits`, `embedding`, `echo` or `onnx:PATH`.
///
/// A relative path starts at `base`, the folder of the configuration file.
///
/// # Errors
/// [`AddressError::UnknownModel`] and [`AddressError::NoFile`]; [`AddressError::NoScheme`] never.
pub(super) fn parse_embedded(
    text: &str,
    base: Option<&Path>,
) -> Result<EmbeddedKind, AddressError> {
    match text {
        "digits" => Ok(EmbeddedKind::Digits),
        "embedding" => Ok(EmbeddedKind::Embedding),
        "echo" => Ok(EmbeddedKind::Echo),
        _ => match text.strip_prefix("onnx:") {
            Some("") => Err(AddressError::NoFile),
            Some(path) => {
                let path = base.map_or_else(|| PathBuf::from(path), |base| base.join(path));
                Ok(EmbeddedKind::Onnx { path })
            }
            None => Err(AddressError::UnknownModel),
        },
    }
}

/// Looks for what may be secret before anything else does: no other error may repeat it. A password
/// may hold a slash, so an `@` wherever it stands may end one.
fn refuse_secrets(text: &str) -> Result<(), AddressError> {
    if text.contains(['?', '#']) {
        Err(AddressError::QueryOrFragment)
    } else if text.contains('@') {
        Err(AddressError::Credentials)
    } else {
        Ok(())
    }
}

fn split_path(rest: &str) -> (&str, &str) {
    rest.find('/').map_or((rest, ""), |at| rest.split_at(at))
}

fn split_authority(authority: &str) -> Result<(&str, Option<&str>), AddressError> {
    let bad_host = |host: &str| AddressError::Host(clip(host));
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| bad_host(authority))?;
        host.parse::<Ipv6Addr>().map_err(|_| bad_host(host))?;
        return match (after, after.strip_prefix(':')) {
            ("", _) => Ok((host, None)),
            (_, Some(port)) => Ok((host, Some(port))),
            _ => Err(bad_host(authority)),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    let is_host_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if port.is_some_and(|port| port.contains(':'))
        || host.len() > HOST_LENGTH_MAX
        || !host.chars().all(is_host_character)
    {
        return Err(bad_host(authority));
    }
    Ok((host, port))
}

fn read_port(text: &str) -> Result<u16, AddressError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if is_number && port != 0 => Ok(port),
        _ => Err(AddressError::Port(clip(text))),
    }
}

fn read_prefix(path: &str, protocol: Protocol) -> Result<String, AddressError> {
    let path = path.trim_end_matches('/');
    if protocol == Protocol::KserveGrpc && !path.is_empty() {
        return Err(AddressError::GrpcPath(clip(path)));
    }
    let is_path_character = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c);
    if !path.chars().all(is_path_character) || path.split('/').any(|part| part == "..") {
        return Err(AddressError::Path(clip(path)));
    }
    let version = match protocol {
        Protocol::OpenAi | Protocol::KserveV1 => "/v1",
        _ => "/v2",
    };
    Ok(path.strip_suffix(version).unwrap_or(path).trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(text: &str) -> Result<InstanceUrl, AddressError> {
        InstanceUrl::parse(text, Protocol::KserveHttp)
    }

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://10.0.0.1:8000", "10.0.0.1", 8000, ""),
            ("http://triton", "triton", 80, ""),
            ("http://triton.models.svc:8000/", "triton.models.svc", 8000, ""),
            ("http://[::1]:9000/a/b/", "::1", 9000, "/a/b"),
            ("http://[fe80::1]", "fe80::1", 80, ""),
            ("http://host:8000/team/v2", "host", 8000, "/team"),
            ("http://host:8000/team//v2/", "host", 8000, "/team"),
        ];
        for (text, host, port, prefix) in cases {
            let url = http(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (url.host.as_str(), url.port, url.path_prefix.as_str()),
                (host, port, prefix)
            );
        }
    }

    #[test]
    fn the_version_of_the_protocols_own_paths_is_dropped() {
        let url = InstanceUrl::parse("http://vllm:8000/v1", Protocol::OpenAi).unwrap();
        assert_eq!(url.to_string(), "http://vllm:8000");
        let url = InstanceUrl::parse("http://gateway/llm/v1/", Protocol::OpenAi).unwrap();
        assert_eq!(url.to_string(), "http://gateway:80/llm");
    }

    #[test]
    fn a_grpc_url_without_port_takes_the_conventional_one() {
        let url = InstanceUrl::parse("grpc://[::1]", Protocol::KserveGrpc).unwrap();
        assert_eq!(url.authority(), "[::1]:8001");
    }

    #[test]
    fn a_bad_url_says_which_part_is_bad() {
        let host = |text: &str| AddressError::Host(text.into());
        let port = |text: &str| AddressError::Port(text.into());
        let cases = [
            ("10.0.0.1:8000", AddressError::NoScheme),
            ("https://h:1", AddressError::Tls),
            ("ftp://h:1", AddressError::UnknownScheme("ftp".into())),
            ("grpc://h:1", AddressError::GrpcScheme(Protocol::KserveHttp)),
            ("http://user:secret@h:1", AddressError::Credentials),
            ("http://user:sec/ret@h:1", AddressError::Credentials),
            ("http://user:http://secret@h:1", AddressError::Credentials),
            ("http://h:1/?a=b", AddressError::QueryOrFragment),
            ("http://", AddressError::NoHost),
            ("http://:8000", AddressError::NoHost),
            ("http://a b:1", host("a b:1")),
            ("http://::1:8000", AddressError::NoHost),
            ("http://fe80::1:8000", host("fe80::1:8000")),
            ("http://[nonsense]:1", host("nonsense")),
            ("http://[::1", host("[::1")),
            ("http://[::1]8000", host("[::1]8000")),
            ("http://h:0", port("0")),
            ("http://h:", port("")),
            ("http://h:+80", port("+80")),
            ("http://h:65536", port("65536")),
            ("http://h:1/a b", AddressError::Path("/a b".into())),
            ("http://h:1/../x", AddressError::Path("/../x".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(http(text), Err(expected), "{text}");
        }
        let grpc = InstanceUrl::parse("http://h:1/x", Protocol::KserveGrpc);
        assert_eq!(grpc, Err(AddressError::GrpcPath("/x".into())));
    }

    #[test]
    fn an_error_is_one_line_of_bounded_length() {
        let long = "x".repeat(10_000);
        for text in ["http://a\nb", "a\n://b", "http://h:\r", "http://h/\n"] {
            for text in [text.to_owned(), format!("{text}{long}")] {
                let said = http(&text).unwrap_err().to_string();
                assert!(!said.contains(char::is_control) && said.len() < 500, "{said}");
            }
        }
    }

    #[test]
    fn a_relative_onnx_file_is_found_beside_the_configuration() {
        let kind = parse_embedded("onnx:m.onnx", Some(Path::new("/etc/batchwise"))).unwrap();
        assert_eq!(kind, EmbeddedKind::Onnx { path: "/etc/batchwise/m.onnx".into() });
        let kind = parse_embedded("onnx:/m.onnx", Some(Path::new("/etc/batchwise"))).unwrap();
        assert_eq!(kind, EmbeddedKind::Onnx { path: "/m.onnx".into() });
        assert_eq!(parse_embedded("onnx:", None), Err(AddressError::NoFile));
        assert_eq!(parse_embedded("resnet", None), Err(AddressError::UnknownModel));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(http://|grpc://)?\\PC*") {
            for protocol in [Protocol::KserveGrpc, Protocol::KserveHttp, Protocol::OpenAi] {
                let _ = InstanceUrl::parse(&text, protocol);
            }
        }

        #[test]
        fn a_written_url_reads_back(
            host in "[a-z][a-z0-9.-]{0,20}", port in 1_u16.., prefix in "(/[a-u]{1,5}){0,3}"
        ) {
            let url = InstanceUrl { host, port, path_prefix: prefix };
            prop_assert_eq!(http(&url.to_string()), Ok(url));
        }
    }
}
