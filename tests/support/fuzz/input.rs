//! How targets read their input: a readable head where they need more than one buffer, and the same
//! bytes cut into pieces in several ways.

use batchwise::tensor::Rope;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::random::Random;

/// Longer inputs are not cut into single bytes: it would only cost time.
const CUT_INTO_BYTES: usize = 512;

/// The first line, without its end, and what follows.
pub(super) fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// The first line as text; empty when it is not UTF-8.
pub(super) fn first_line_text(data: &[u8]) -> (&str, &[u8]) {
    let (line, rest) = first_line(data);
    (std::str::from_utf8(line).unwrap_or_default(), rest)
}

/// Lines of `name: value` up to an empty one, and what follows. A line that is no header is left out.
pub(super) fn headers(mut data: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    loop {
        let (line, rest) = first_line(data);
        data = rest;
        if line.is_empty() {
            return (headers, data);
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
}

/// The same bytes in pieces of lengths that follow from them.
pub(super) fn random_pieces(data: &[u8]) -> Vec<Bytes> {
    let mut random = Random::of(data);
    let longest = [2, 7, 64, 1000][random.below(4)];
    let mut rest = Bytes::copy_from_slice(data);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        pieces.push(rest.split_to((1 + random.below(longest)).min(rest.len())));
    }
    pieces
}

/// The same bytes one by one, where they are not too many for that.
pub(super) fn single_bytes(data: &[u8]) -> Vec<Bytes> {
    if data.len() > CUT_INTO_BYTES {
        return vec![Bytes::copy_from_slice(data)];
    }
    let whole = Bytes::copy_from_slice(data);
    (0..data.len()).map(|at| whole.slice(at..at + 1)).collect()
}

/// The same bytes in one slice.
pub(super) fn whole(data: &[u8]) -> Rope {
    Rope::from(Bytes::copy_from_slice(data))
}

/// The same bytes, one slice each, and in pieces of random lengths.
pub(super) fn cuts(data: &[u8]) -> [Rope; 2] {
    [single_bytes(data), random_pieces(data)].map(|pieces| pieces.into_iter().collect())
}
