//! Bytes that are a list of reference-counted slices.

use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

/// A sequence of bytes held as slices of the buffers that they arrived in.
///
/// Cloning, appending and slicing never copy the bytes. Empty segments are not kept.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    segments: SmallVec<[Bytes; 1]>,
    len: usize,
}

impl Rope {
    /// An empty rope.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices, in order.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// Appends a slice.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push(segment);
        }
    }

    /// Appends another rope's slices.
    pub fn append(&mut self, other: &Rope) {
        self.len += other.len;
        self.segments.extend(other.segments.iter().cloned());
    }

    /// A part of the rope; `range` is cut to the rope's length.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Rope {
        let mut reader = self.reader();
        let start = range.start.min(self.len);
        let end = range.end.clamp(start, self.len);
        reader.advance(start);
        reader.take_rope(end - start)
    }

    /// The bytes as one slice: free of copies when there is one segment.
    pub fn to_bytes(&self) -> Bytes {
        match self.segments.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            many => {
                let mut joined = BytesMut::with_capacity(self.len);
                for segment in many {
                    joined.put_slice(segment);
                }
                joined.freeze()
            }
        }
    }

    /// A cursor over the bytes.
    pub fn reader(&self) -> RopeReader<'_> {
        RopeReader { segments: &self.segments, offset: 0, remaining: self.len }
    }
}

impl From<Bytes> for Rope {
    fn from(segment: Bytes) -> Self {
        let mut rope = Rope::new();
        rope.push(segment);
        rope
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl FromIterator<Bytes> for Rope {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        let mut rope = Rope::new();
        segments.into_iter().for_each(|segment| rope.push(segment));
        rope
    }
}

impl IntoIterator for Rope {
    type Item = Bytes;
    type IntoIter = smallvec::IntoIter<[Bytes; 1]>;

    fn into_iter(self) -> Self::IntoIter {
        self.segments.into_iter()
    }
}

impl PartialEq for Rope {
    /// Equality of the bytes; how they are cut into segments does not matter.
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let (mut left, mut right) = (self.reader(), other.reader());
        while left.has_remaining() {
            let step = left.chunk().len().min(right.chunk().len());
            if left.chunk().get(..step) != right.chunk().get(..step) {
                return false;
            }
            left.advance(step);
            right.advance(step);
        }
        true
    }
}

impl Eq for Rope {}

/// A cursor over a [`Rope`] that hands out slices of the rope's own buffers.
#[derive(Clone, Debug)]
pub struct RopeReader<'a> {
    segments: &'a [Bytes],
    offset: usize,
    remaining: usize,
}

impl RopeReader<'_> {
    /// Takes the next `count` bytes (fewer when fewer remain) without copying them.
    pub fn take_rope(&mut self, count: usize) -> Rope {
        let mut wanted = count.min(self.remaining);
        let mut taken = Rope::new();
        while wanted > 0 {
            let Some(segment) = self.segments.first() else { break };
            let step = wanted.min(segment.len() - self.offset);
            taken.push(segment.slice(self.offset..self.offset + step));
            self.advance(step);
            wanted -= step;
        }
        taken
    }
}

impl Buf for RopeReader<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.segments.first().and_then(|segment| segment.get(self.offset..)).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        let mut count = count.min(self.remaining);
        self.remaining -= count;
        while let Some(segment) = self.segments.first() {
            let left = segment.len() - self.offset;
            if count < left {
                self.offset += count;
                return;
            }
            count -= left;
            self.offset = 0;
            self.segments = self.segments.get(1..).unwrap_or_default();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut offset = self.offset;
        for (slice, segment) in slices.iter_mut().zip(self.segments) {
            *slice = IoSlice::new(segment.get(offset..).unwrap_or_default());
            offset = 0;
            filled += 1;
        }
        filled
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.take_rope(count).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rope_of(parts: &[Vec<u8>]) -> Rope {
        parts.iter().cloned().map(Bytes::from).collect()
    }

    #[test]
    fn a_slice_inside_one_segment_shares_its_buffer() {
        let rope = Rope::from(Bytes::from(vec![7; 1000]));
        let part = rope.slice(100..200);
        assert_eq!(part.segments()[0].as_ptr(), rope.segments()[0][100..].as_ptr());
    }

    proptest! {
        #[test]
        fn behaves_as_the_concatenation(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            from in 0_usize..40,
            count in 0_usize..40,
        ) {
            let flat = parts.concat();
            let rope = rope_of(&parts);
            prop_assert_eq!(rope.len(), flat.len());
            prop_assert_eq!(rope.to_bytes(), Bytes::from(flat.clone()));
            prop_assert_eq!(&rope, &Rope::from(flat.clone()));
            let start = from.min(flat.len());
            let end = (start + count).min(flat.len());
            prop_assert_eq!(rope.slice(from..from + count).to_bytes(), &flat[start..end]);
            let mut reader = rope.reader();
            reader.advance(start);
            prop_assert_eq!(reader.copy_to_bytes(end - start), &flat[start..end]);
            prop_assert_eq!(reader.remaining(), flat.len() - end);
        }
    }
}
