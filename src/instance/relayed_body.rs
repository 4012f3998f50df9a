//! The body of a reply that is handed on as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::abort::Abort;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The instance said nothing in the middle of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing came for {} ms", .0.as_millis())]
struct Silent(Duration);

/// A body that fails when it is silent for too long while somebody waits for it, and that keeps what
/// its connection needs to run.
pub(super) struct RelayedBody<B, K> {
    body: B,
    idle_timeout: Duration,
    /// Since when somebody waits for the next frame.
    waits_since: Option<Instant>,
    /// Fires no later than the time-out; made at the first wait, and then used again.
    timer: Option<Pin<Box<Sleep>>>,
    /// What the instance is told if nobody reads to the end.
    abort: Option<Abort>,
    _keeps: K,
}

impl<B, K> RelayedBody<B, K> {
    pub(super) fn new(body: B, idle_timeout: Duration, keeps: K) -> Self {
        Self { body, idle_timeout, waits_since: None, timer: None, abort: None, _keeps: keeps }
    }

    /// The same, with what the instance is to be told if nobody reads to the end.
    pub(super) fn with_abort(self, abort: Option<Abort>) -> Self {
        Self { abort, ..self }
    }

    /// Whether the time is up for a frame that is not there.
    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        let due = *self.waits_since.get_or_insert_with(Instant::now) + self.idle_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= due {
                return true;
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(due);
        }
        false
    }
}

impl<B, K> Body for RelayedBody<B, K>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
    K: Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.waits_since = None;
            if frame.is_none() || this.body.is_end_stream() {
                this.abort.iter_mut().for_each(Abort::disarm);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.is_overdue(context) {
            return Poll::Ready(Some(Err(Silent(this.idle_timeout).into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn silence_is_measured_anew_for_each_frame() {
        let start = Instant::now();
        let frames = futures_util::stream::iter(0..5).then(|number| async move {
            tokio::time::sleep(IDLE * 9 / 10).await;
            Ok::<_, Error>(Frame::data(Bytes::from(vec![number])))
        });
        let silence = futures_util::stream::pending();
        let body = StreamBody::new(Box::pin(frames.chain(silence)));
        let mut body = RelayedBody::new(body, IDLE, ());
        for _ in 0..5 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "nothing came for 10000 ms");
        assert_eq!(start.elapsed(), IDLE * 9 / 10 * 5 + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_does_not_make_the_instance_late() {
        let frames = futures_util::stream::iter([1, 2]);
        let frames = frames.map(|byte| Ok::<_, Error>(Frame::data(Bytes::from(vec![byte]))));
        let mut body = RelayedBody::new(StreamBody::new(frames), IDLE, ());
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::sleep(IDLE * 3).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.is_none());
    }
}
