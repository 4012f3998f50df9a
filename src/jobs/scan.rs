//! Reads back which requests an output answers, and where its last whole line ends.

use std::io::{self, Read};

use super::result_line::{HEAD, number_of};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// What an output holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The requests that it answers, in its order.
    pub(super) numbers: Vec<u32>,
    /// Where the last good line ends.
    pub(super) length: u64,
}

/// Reads an output up to its end, or to what no writer of whole lines can have left there: a line
/// without an end, or with bytes that never got to the disk. What comes after was written later.
pub(super) fn scan(source: &mut impl Read, tag: &str) -> io::Result<Scanned> {
    let mut scanned = Scanned::default();
    let mut chunk = vec![0; CHUNK];
    let mut line = Line::default();
    let mut offset = 0;
    loop {
        let count = match source.read(&mut chunk) {
            Ok(0) => return Ok(scanned),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in chunk.get(..count).unwrap_or_default() {
            offset += 1;
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let Some(number) = line.number(tag) else { return Ok(scanned) };
            scanned.numbers.push(number);
            scanned.length = offset;
            line = Line::default();
        }
    }
}

/// What is remembered of a line.
struct Line {
    head: [u8; HEAD],
    length: usize,
    last: u8,
    is_clean: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self { head: [0; HEAD], length: 0, last: 0, is_clean: true }
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.head.get_mut(self.length) {
            *place = byte;
        }
        self.length += 1;
        self.last = byte;
        self.is_clean &= byte >= 0x20;
    }

    fn number(&self, tag: &str) -> Option<u32> {
        let is_whole = self.is_clean && self.length > HEAD && self.last == b'}';
        is_whole.then(|| number_of(&self.head, tag)).flatten()
    }
}
