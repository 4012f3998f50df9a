//! A rope as an HTTP body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::tensor::Rope;

/// An HTTP body of known length that hands out a rope's segments as they are.
#[derive(Debug)]
pub struct RopeBody {
    segments: <Rope as IntoIterator>::IntoIter,
    remaining: u64,
}

impl From<Rope> for RopeBody {
    fn from(rope: Rope) -> Self {
        let remaining = rope.len() as u64;
        Self { segments: rope.into_iter(), remaining }
    }
}

impl Body for RopeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.segments.next().map(|segment| {
            self.remaining = self.remaining.saturating_sub(segment.len() as u64);
            Ok(Frame::data(segment))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn hands_out_the_segments_and_knows_its_length() {
        let rope: Rope =
            [Bytes::from_static(b"ab"), Bytes::from_static(b"cde")].into_iter().collect();
        let mut body = RopeBody::from(rope);
        assert_eq!(body.size_hint().exact(), Some(5));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.as_ref(), body.size_hint().exact()), (b"ab".as_slice(), Some(3)));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "cde");
        assert!(RopeBody::from(Rope::new()).is_end_stream());
    }
}
