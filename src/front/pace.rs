//! Callers over HTTP/2 that do not take their answers.
//!
//! Such a caller keeps its window shut, so that no write of the connection waits and the socket sees
//! nothing of it. What sees it is the answer's body: it has handed out a piece and is not asked for the
//! next. Each stream of a connection runs as a task of its own, through which [`watched`] lets it be
//! given up, body and all. Pieces are small, so that what has been handed out is little.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Bytes of the pieces that an answer is handed out in.
const PIECE: usize = 64 << 10;
/// Bytes of the last one: it is out of sight once it is handed out.
const LAST_PIECE: usize = 16 << 10;

tokio::task_local! {
    static TAKING: Taking;
}

/// The number of the piece of this task's answer that waits to be taken; 0 when none does.
#[derive(Clone, Debug, Default)]
struct Taking(Arc<AtomicU64>);

/// Runs the task of a stream; `None` when a piece of its answer was not taken for `timeout`.
pub(super) async fn watched<F: Future>(stream: F, timeout: Duration) -> Option<F::Output> {
    let taking = Taking::default();
    let not_taken = NotTaken { taking: taking.clone(), timeout, piece: 0, by: None };
    let ended = async {
        tokio::select! {
            biased;
            output = stream => Some(output),
            () = not_taken => None,
        }
    };
    TAKING.scope(taking, ended).await
}

/// The same response, whose body tells the task that runs it when it waits to be taken. What runs
/// outside of [`watched`] is left as it is.
pub(super) fn paced(response: Response) -> Response {
    match TAKING.try_with(Clone::clone) {
        Err(_) => response,
        Ok(taking) => response
            .map(|inner| Body::new(PacedBody { inner, rest: Bytes::new(), handed_out: 0, taking })),
    }
}

/// Ends when a piece was not taken for too long. To be polled after whatever may take one.
struct NotTaken {
    taking: Taking,
    timeout: Duration,
    piece: u64,
    by: Option<Pin<Box<Sleep>>>,
}

impl Future for NotTaken {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let piece = this.taking.0.load(Ordering::Relaxed);
        if piece != std::mem::replace(&mut this.piece, piece) || piece == 0 {
            this.by = None;
        }
        if piece == 0 {
            return Poll::Pending;
        }
        let until = Instant::now() + this.timeout;
        let by = this.by.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        by.as_mut().poll(context)
    }
}

struct PacedBody {
    inner: Body,
    /// What is left of the frame that came last.
    rest: Bytes,
    handed_out: u64,
    taking: Taking,
}

impl PacedBody {
    fn next_piece(&mut self) -> Frame<Bytes> {
        let length = match self.rest.len() {
            long if long > PIECE => PIECE,
            long if long > LAST_PIECE => long - LAST_PIECE,
            short => short,
        };
        self.handed_out += 1;
        self.taking.0.store(self.handed_out, Ordering::Relaxed);
        Frame::data(self.rest.split_to(length))
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.next_piece())));
        }
        this.taking.0.store(0, Ordering::Relaxed);
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => {
                    this.rest = data;
                    this.next_piece()
                }
                Err(frame) => frame,
            }))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn response(body: impl Into<Body>) -> Response {
        paced(Response::new(body.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let began = Instant::now();
        let stream = async {
            let mut body = response(vec![0; 200_000]).into_body();
            for _ in 0..3 {
                body.frame().await.unwrap().unwrap();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            std::future::pending::<()>().await;
        };
        assert!(watched(stream, TIMEOUT).await.is_none());
        assert_eq!(began.elapsed().as_secs(), 70, "each piece that is taken starts the time anew");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_slow_in_coming_is_not() {
        let stream = async {
            // Nobody waits for the caller before the answer, nor between two pieces of it.
            tokio::time::sleep(TIMEOUT * 3).await;
            let slow = futures_util::stream::once(async {
                tokio::time::sleep(TIMEOUT * 3).await;
                Ok::<_, std::io::Error>("late")
            });
            let first = futures_util::stream::once(async { Ok("first ") });
            let body = Body::from_stream(futures_util::StreamExt::chain(first, slow));
            response(body).into_body().collect().await.unwrap().to_bytes()
        };
        assert_eq!(watched(stream, TIMEOUT).await.unwrap(), "first late");
    }

    #[tokio::test]
    async fn pieces_are_small_and_none_is_copied() {
        let whole = Bytes::from(vec![7; 150_000]);
        let pieces = watched(
            async {
                let mut body = response(whole.clone()).into_body();
                assert_eq!(body.size_hint().exact(), Some(150_000));
                let mut pieces = Vec::new();
                while let Some(frame) = body.frame().await {
                    pieces.push(frame.unwrap().into_data().unwrap());
                }
                assert!(body.is_end_stream());
                pieces
            },
            TIMEOUT,
        );
        let pieces = pieces.await.unwrap();
        let mut at = whole.as_ptr();
        for piece in &pieces {
            assert_eq!(piece.as_ptr(), at);
            at = at.wrapping_add(piece.len());
        }
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [PIECE, PIECE, 150_000 - 2 * PIECE - LAST_PIECE, LAST_PIECE]);
    }

    #[tokio::test]
    async fn an_answer_elsewhere_is_left_as_it_is() {
        let body = response(vec![0; 200_000]).into_body();
        let first = body.into_data_stream();
        let first = futures_util::StreamExt::into_future(first).await.0.unwrap().unwrap();
        assert_eq!(first.len(), 200_000);
    }
}
