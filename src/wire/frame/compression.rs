//! Compressed messages and bodies.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};

use super::FrameError;
use crate::tensor::Rope;
use crate::wire::intake::Lease;

/// Compressed input above this size is unpacked away from the tasks that serve connections.
const INLINE: usize = 16 * 1024;
/// Bytes unpacked at a time.
const PIECE: usize = 16 * 1024;

/// How a message or body is compressed; the names are those of `grpc-encoding` and
/// `content-encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950: zlib, as both wires mean by that name.
    Deflate,
}

impl Encoding {
    /// The encoding of this name; `None` when it is not known here.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim() {
            "" | "identity" => Some(Encoding::Identity),
            "gzip" => Some(Encoding::Gzip),
            "deflate" => Some(Encoding::Deflate),
            _ => None,
        }
    }
}

/// Unpacks compressed bytes, at most `max` of them, which `lease` grows by.
///
/// # Errors
/// When there are more, or when the bytes are not what `encoding` says.
pub async fn decompress(
    packed: Rope,
    encoding: Encoding,
    max: usize,
    mut lease: Lease,
) -> Result<(Rope, Lease), FrameError> {
    if encoding == Encoding::Identity {
        return Ok((packed, lease));
    }
    if packed.len() <= INLINE {
        return unpack(&packed, encoding, max, &mut lease).map(|unpacked| (unpacked, lease));
    }
    tokio::task::spawn_blocking(move || {
        unpack(&packed, encoding, max, &mut lease).map(|unpacked| (unpacked, lease))
    })
    .await
    .map_err(|error| FrameError::Decompress(error.to_string()))?
}

fn unpack(
    packed: &Rope,
    encoding: Encoding,
    max: usize,
    lease: &mut Lease,
) -> Result<Rope, FrameError> {
    let source = packed.reader().reader();
    match encoding {
        Encoding::Identity => Ok(packed.clone()),
        Encoding::Gzip => read_bounded(flate2::bufread::MultiGzDecoder::new(source), max, lease),
        Encoding::Deflate => read_bounded(flate2::bufread::ZlibDecoder::new(source), max, lease),
    }
}

fn read_bounded(mut decoder: impl Read, max: usize, lease: &mut Lease) -> Result<Rope, FrameError> {
    let mut unpacked = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let count = decoder
            .read(&mut piece)
            .map_err(|error: io::Error| FrameError::Decompress(error.to_string()))?;
        if count == 0 {
            return Ok(Bytes::from(unpacked).into());
        }
        if count > max - unpacked.len() {
            return Err(FrameError::TooLarge { got: None, max });
        }
        lease.grow_by(count)?;
        unpacked.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::call::{Fault, FaultKind};
    use crate::wire::intake::Budget;

    pub(super) fn packed(encoding: Encoding, plain: &[u8]) -> Rope {
        let level = flate2::Compression::fast();
        let bytes = match encoding {
            Encoding::Identity => plain.to_vec(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
        };
        bytes.chunks(7).map(Bytes::copy_from_slice).collect()
    }

    #[tokio::test]
    async fn unpacks_every_encoding_from_scattered_segments() {
        let plain: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
            let budget = Budget::new(200_000);
            let packed = packed(encoding, &plain);
            let unpacked = decompress(packed, encoding, plain.len(), budget.lease()).await;
            let (unpacked, _lease) = unpacked.unwrap();
            assert_eq!(unpacked, Rope::from(plain.clone()));
            let counted = if encoding == Encoding::Identity { 0 } else { plain.len() };
            assert_eq!(budget.held(), counted);
        }
    }

    #[tokio::test]
    async fn a_bomb_is_refused_at_the_bound() {
        let bomb = packed(Encoding::Gzip, &vec![0; 10 << 20]);
        let refused = decompress(bomb.clone(), Encoding::Gzip, 1 << 20, Lease::boundless()).await;
        assert!(matches!(refused, Err(FrameError::TooLarge { got: None, .. })));
        let budget = Budget::new(1 << 20);
        let refused = decompress(bomb, Encoding::Gzip, 20 << 20, budget.lease()).await;
        let kind = refused.map_err(|error| Fault::from(error).kind).unwrap_err();
        assert_eq!((kind, budget.held()), (FaultKind::TooLarge, 0));
    }

    #[tokio::test]
    async fn noise_and_a_cut_stream_are_refused() {
        let noise = decompress(vec![7; 40].into(), Encoding::Gzip, 100, Lease::boundless()).await;
        assert!(matches!(noise, Err(FrameError::Decompress(_))));
        let whole = packed(Encoding::Deflate, &[1; 5000]);
        let half = whole.slice(0..whole.len() / 2);
        let cut = decompress(half, Encoding::Deflate, 5000, Lease::boundless()).await;
        assert!(matches!(cut, Err(FrameError::Decompress(_))));
    }
}
