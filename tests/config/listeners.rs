//! Addresses of the command line come before those of the file, and must get along with them.

use batchwise::config::{Overrides, load};

use crate::folder;

#[test]
fn a_flag_comes_before_the_file() {
    let file = folder("good").join("every_option.toml");
    let overrides =
        Overrides { admin: Some("127.0.0.1:0".parse().unwrap()), ..Overrides::default() };
    let server = load(Some(&file), &overrides).unwrap().plan.server;
    assert_eq!(server.http, "0.0.0.0:9000".parse().unwrap());
    assert_eq!(server.admin, "127.0.0.1:0".parse().unwrap());
}

#[test]
fn a_flag_that_takes_the_port_of_another_listener_is_refused() {
    let file = folder("good").join("minimal.toml");
    let overrides =
        Overrides { http: Some("0.0.0.0:8001".parse().unwrap()), ..Overrides::default() };
    let error = load(Some(&file), &overrides).unwrap_err();
    assert_eq!(
        error.to_string(),
        "command line: `grpc` in [server] is \"127.0.0.1:8001\", the port of `http`; \
         give each listener its own port"
    );
}

#[test]
fn ports_that_the_system_chooses_are_never_the_same() {
    let file = folder("good").join("minimal.toml");
    let any = Some("127.0.0.1:0".parse().unwrap());
    let overrides = Overrides { http: any, grpc: any, admin: any };
    assert_eq!(load(Some(&file), &overrides).unwrap().plan.server.http.port(), 0);
}
