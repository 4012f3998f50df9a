//! Lines of a file, one after the other, however long the file is.

use std::io::{self, BufRead};

/// What came of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineRead {
    /// A line that is not blank, without its end; lines count from 1.
    Line(u64),
    /// A line that is longer than may be; its bytes were skipped.
    TooLong(u64),
    /// There are no more.
    End,
}

/// Reads lines up to a length. Blank lines are left out, and a byte order mark is no part of one.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    source: R,
    longest: usize,
    line: u64,
}

impl<R: BufRead> LineReader<R> {
    /// The lines of `source`, none of which may be longer than `longest` bytes.
    pub(super) fn new(source: R, longest: u64) -> Self {
        Self { source, longest: usize::try_from(longest).unwrap_or(usize::MAX), line: 0 }
    }

    /// Reads the next line that is not blank into `line`.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<LineRead> {
        loop {
            line.clear();
            let (any, fits) = self.read(line)?;
            if !any {
                return Ok(LineRead::End);
            }
            self.line += 1;
            if !fits {
                return Ok(LineRead::TooLong(self.line));
            }
            if self.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Ok(LineRead::Line(self.line));
            }
        }
    }

    /// Whether there was a line at all, and whether it fits.
    fn read(&mut self, line: &mut Vec<u8>) -> io::Result<(bool, bool)> {
        let (mut any, mut fits) = (false, true);
        loop {
            let available = match self.source.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok((any, fits));
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
            fits &= part.len() <= self.longest - line.len().min(self.longest);
            if fits {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.source.consume(used);
            if end.is_some() {
                return Ok((any, fits));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], longest: u64, buffer: usize) -> Vec<(LineRead, Vec<u8>)> {
        let mut reader = LineReader::new(BufReader::with_capacity(buffer, text), longest);
        let (mut all, mut line) = (Vec::new(), Vec::new());
        loop {
            match reader.next(&mut line).unwrap() {
                LineRead::End => return all,
                read @ LineRead::Line(_) => all.push((read, line.clone())),
                read @ LineRead::TooLong(_) => all.push((read, Vec::new())),
            }
        }
    }

    #[test]
    fn lines_are_told_apart_whatever_the_buffer_holds() {
        let text = b"\xef\xbb\xbfone\r\n\n  \ntwo\n01234567\n\xff\xfe\nlast";
        for buffer in [1, 2, 3, 7, 100] {
            let expected = [
                (LineRead::Line(1), b"one".to_vec()),
                (LineRead::Line(4), b"two".to_vec()),
                (LineRead::TooLong(5), vec![]),
                (LineRead::Line(6), b"\xff\xfe".to_vec()),
                (LineRead::Line(7), b"last".to_vec()),
            ];
            assert_eq!(lines(text, 7, buffer), expected, "{buffer}");
        }
        assert_eq!(lines(b"", 5, 4), []);
        assert_eq!(lines(b"\n\n", 5, 4), []);
    }
}
