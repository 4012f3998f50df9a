//! A rope as an HTTP body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::tensor::Rope;

/// A body that hands out a rope's segments as they are, then trailers when there are any.
#[derive(Debug, Default)]
pub struct RopeBody {
    segments: Option<<Rope as IntoIterator>::IntoIter>,
    remaining: usize,
    trailers: Option<HeaderMap>,
}

impl RopeBody {
    /// A body of these bytes.
    pub fn new(rope: Rope) -> Self {
        Self { remaining: rope.len(), segments: Some(rope.into_iter()), trailers: None }
    }

    /// The same body, ending in trailers.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl From<Rope> for RopeBody {
    fn from(rope: Rope) -> Self {
        Self::new(rope)
    }
}

impl Body for RopeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(segment) = self.segments.as_mut().and_then(Iterator::next) {
            self.remaining = self.remaining.saturating_sub(segment.len());
            return Poll::Ready(Some(Ok(Frame::data(segment))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0 && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::wire::frame::ok_trailers;

    #[tokio::test]
    async fn hands_out_the_segments_themselves_and_then_the_trailers() {
        let (one, two) = (Bytes::from(vec![1; 9]), Bytes::from(vec![2; 9]));
        let rope: Rope = [one.clone(), two.clone()].into_iter().collect();
        let mut body = RopeBody::new(rope).with_trailers(ok_trailers());
        assert_eq!(body.size_hint().exact(), Some(18));
        for expected in [one, two] {
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((data.as_ptr(), data.len()), (expected.as_ptr(), expected.len()));
        }
        assert!(!body.is_end_stream());
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[test]
    fn nothing_is_an_ended_stream() {
        assert!(RopeBody::default().is_end_stream());
        assert!(RopeBody::new(Rope::new()).is_end_stream());
    }
}
