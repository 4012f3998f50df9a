//! Whose a file or a batch is.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{disk, id};

/// Who asks, as far as a request tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A gateway that is trusted says so.
    Tenant(&'a str),
    /// Whoever has this credential.
    Credential(&'a [u8]),
    /// Nothing says so.
    Anybody,
}

/// Whose a file or a batch is. Only the same owner finds it again; what nobody owns is everybody's
/// who shows no credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(Option<String>);

impl Owner {
    /// A name for the scheduler and the log.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// The key of the stand-ins for credentials: it lies with the files, for they outlive the process.
pub(super) struct OwnerKey([u8; 32]);

impl std::fmt::Debug for OwnerKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OwnerKey")
    }
}

impl OwnerKey {
    /// Reads the key, or makes one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => bytes.try_into().map(Self).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "the key is not 32 bytes long")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
                disk::replace(path, &key)?;
                Ok(Self(key))
            }
            Err(error) => Err(error),
        }
    }

    /// The owner of what a caller makes. A credential itself is not kept.
    pub(super) fn owner(&self, caller: Caller<'_>) -> Owner {
        Owner(match caller {
            Caller::Tenant(name) => Some(format!("tenant {name}")),
            Caller::Credential(credential) => {
                let digest = Sha256::new().chain_update(self.0).chain_update(credential).finalize();
                let stand_in = id::hexadecimal(digest.get(..16).unwrap_or_default());
                Some(format!("credential {stand_in}"))
            }
            Caller::Anybody => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_apart_and_found_again_with_the_same_key() {
        let folder = super::super::requests::tests::Folder::new();
        let path = folder.path().join("key");
        let key = OwnerKey::open(&path).unwrap();
        let callers = [
            Caller::Anybody,
            Caller::Tenant("a"),
            Caller::Tenant("b"),
            Caller::Credential(b"a"),
            Caller::Credential(b"secret"),
        ];
        let owners = callers.map(|caller| key.owner(caller));
        for (index, owner) in owners.iter().enumerate() {
            assert!(!owners[..index].contains(owner));
            assert!(!format!("{owner:?}").contains("secret"));
        }
        let again = OwnerKey::open(&path).unwrap();
        assert_eq!(callers.map(|caller| again.owner(caller)), owners);
    }
}
