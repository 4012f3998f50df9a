//! Who a call is from.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::call::Fault;
use crate::jobs::Caller;

const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Bytes of the longest name of a tenant.
const LONGEST: usize = 128;

/// Who a call is from: header `x-tenant-id` where it is trusted and there, else a stand-in for the
/// credential.
///
/// # Errors
/// When the header is trusted and cannot be a name.
pub(super) fn tenant(headers: &HeaderMap, trust_header: bool) -> Result<Option<Arc<str>>, Fault> {
    if trust_header && let Some(value) = headers.get(X_TENANT_ID) {
        let name = value.to_str().map(str::trim).unwrap_or_default();
        if !(1..=LONGEST).contains(&name.len()) {
            let message = format!("header x-tenant-id must be 1 to {LONGEST} ASCII characters");
            return Err(Fault::invalid("x-tenant-id", message));
        }
        return Ok(Some(name.into()));
    }
    Ok(headers.get(AUTHORIZATION).and_then(|value| stand_in(value.as_bytes())))
}

/// Who asks for files and batches, which outlive this process and any stand-in that it makes up.
///
/// # Errors
/// As [`tenant`].
pub(super) fn caller(headers: &HeaderMap, trust_header: bool) -> Result<Caller<'_>, Fault> {
    if trust_header && let Some(value) = headers.get(X_TENANT_ID) {
        tenant(headers, trust_header)?;
        return Ok(Caller::Tenant(value.to_str().map(str::trim).unwrap_or_default()));
    }
    let credential = headers.get(AUTHORIZATION).map(|value| credential(value.as_bytes()));
    Ok(match credential {
        None | Some([]) => Caller::Anybody,
        Some(credential) => Caller::Credential(credential),
    })
}

/// A credential without its scheme, which is written in any case.
fn credential(authorization: &[u8]) -> &[u8] {
    let credential = match authorization.iter().position(u8::is_ascii_whitespace) {
        Some(end) => authorization.get(end..).unwrap_or_default(),
        None => authorization,
    };
    credential.trim_ascii()
}

/// Stands for a credential where it may be shown. Hashed with a key that only this process has, so
/// that neither a guessed credential can be verified by it nor two be made to meet.
fn stand_in(authorization: &[u8]) -> Option<Arc<str>> {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let credential = credential(authorization);
    (!credential.is_empty()).then(|| format!("credential-{:016x}", KEY.hash_one(credential)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(HeaderName, &str)], trust: bool) -> Result<Option<Arc<str>>, Fault> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        tenant(&headers.collect(), trust)
    }

    #[test]
    fn the_header_counts_only_where_it_is_trusted() {
        let named = [(X_TENANT_ID, "team-a")];
        assert_eq!(of(&named, true).unwrap().as_deref(), Some("team-a"));
        assert_eq!(of(&named, false).unwrap(), None);
        let both = [(X_TENANT_ID, "team-a"), (AUTHORIZATION, "Bearer k")];
        assert_eq!(of(&both, true).unwrap().as_deref(), Some("team-a"));
        assert_eq!(of(&both, false).unwrap(), of(&both[1..], false).unwrap());
        assert!(of(&both, false).unwrap().is_some());
    }

    #[test]
    fn a_credential_has_a_stand_in_that_does_not_tell_it() {
        let bearer = |value| of(&[(AUTHORIZATION, value)], true).unwrap();
        let secret = bearer("Bearer sk-secret").unwrap();
        assert!(!secret.contains("secret") && secret.len() <= LONGEST, "{secret}");
        assert_eq!(bearer("bearer  sk-secret"), Some(secret.clone()));
        assert_ne!(bearer("Bearer sk-other"), Some(secret));
        assert_eq!((bearer("Bearer "), bearer("")), (None, None));
    }

    #[test]
    fn who_keeps_files_is_known_by_the_same_things() {
        let headers = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        let mut bearer = headers("Bearer sk-secret");
        assert_eq!(caller(&bearer, true).unwrap(), Caller::Credential(b"sk-secret"));
        assert_eq!(caller(&headers("Bearer "), true).unwrap(), Caller::Anybody);
        bearer.insert(X_TENANT_ID, " team-a ".parse().unwrap());
        assert_eq!(caller(&bearer, true).unwrap(), Caller::Tenant("team-a"));
        assert_eq!(caller(&bearer, false).unwrap(), Caller::Credential(b"sk-secret"));
        bearer.insert(X_TENANT_ID, "".parse().unwrap());
        assert!(caller(&bearer, true).is_err());
        assert_eq!(caller(&HeaderMap::new(), true).unwrap(), Caller::Anybody);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        for bad in ["", " ", &"a".repeat(LONGEST + 1)] {
            let fault = of(&[(X_TENANT_ID, bad)], true).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some("x-tenant-id"), "{bad}");
            assert_eq!(of(&[(X_TENANT_ID, bad)], false).unwrap(), None);
        }
    }
}
