//! One connection of the simulated network.
//!
//! What is written travels in pieces, one for each write, and each arrives when its time has come, in
//! order. The road that a line runs along says how long that takes, and what goes wrong.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::random::Random;
use crate::road::{Direction, Road};

/// Bytes on their way in one direction: beyond it a writer waits for its peer to read.
const CAPACITY: usize = 64 << 10;

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// Whoever reads this far learns that the connection is gone.
    Reset,
}

/// One direction of a line.
#[derive(Debug)]
struct Way {
    pieces: VecDeque<(Instant, Piece)>,
    bytes: usize,
    /// No piece overtakes another.
    latest: Instant,
    /// When the reader learns that nothing more comes.
    end: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    reader_is_gone: bool,
    /// Bytes until the line is cut.
    cut_after: Option<usize>,
    random: Random,
}

impl Way {
    fn new(random: Random) -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            latest: Instant::now(),
            end: None,
            reader: None,
            writer: None,
            reader_is_gone: false,
            cut_after: None,
            random,
        }
    }

    fn send(&mut self, road: &Road, piece: Piece) {
        self.latest = self.latest.max(Instant::now() + road.delay(&mut self.random));
        self.pieces.push_back((self.latest, piece));
        wake(&mut self.reader);
    }

    fn close(&mut self, road: &Road) {
        if self.end.is_none() {
            self.latest = self.latest.max(Instant::now() + road.delay(&mut self.random));
            self.end = Some(self.latest);
            wake(&mut self.reader);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A connection as both of its ends see it.
#[derive(Debug)]
struct Shared {
    /// From the end that dialled, and to it.
    ways: [Way; 2],
    reset: bool,
}

impl Shared {
    fn reset(&mut self) {
        self.reset = true;
        for way in &mut self.ways {
            way.pieces.clear();
            wake(&mut way.reader);
            wake(&mut way.writer);
        }
    }

    fn wake(&mut self) {
        for way in &mut self.ways {
            wake(&mut way.reader);
        }
    }
}

/// A handle to a connection, to do things to it from outside.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<Mutex<Shared>>);

impl Line {
    /// Both ends of a new connection along `road`; the first one dialled.
    pub(crate) fn lay(road: &Road) -> (Self, End, End) {
        let shared = Shared { ways: [Way::new(road.draw()), Way::new(road.draw())], reset: false };
        let line = Self(Arc::new(Mutex::new(shared)));
        let end = |side| End { line: line.clone(), road: road.clone(), side, timer: None };
        let (one, two) = (end(0), end(1));
        (line, one, two)
    }

    /// Ends it at once, on both ends and with whatever is on its way.
    pub(crate) fn reset(&self) {
        self.lock().reset();
    }

    /// It is not cut any more.
    pub(crate) fn spare(&self) {
        for way in &mut self.lock().ways {
            way.cut_after = None;
        }
    }

    /// Lets whoever reads look again.
    pub(crate) fn wake(&self) {
        self.lock().wake();
    }

    /// Whether an end of it is left.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a connection.
pub(crate) struct End {
    line: Line,
    road: Road,
    side: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("side", &self.side).finish()
    }
}

impl End {
    /// The connection that it is an end of.
    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    fn direction(&self) -> Direction {
        if self.side == 0 { Direction::Out } else { Direction::Back }
    }

    fn write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let shared = &mut *self.line.lock();
        if shared.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let Some(way) = shared.ways.get_mut(self.side) else { unreachable!("a line has two ways") };
        if way.end.is_some() || way.reader_is_gone {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = CAPACITY.saturating_sub(way.bytes);
        if room == 0 {
            way.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(room);
        let bytes = &bytes[..taken];
        if way.cut_after.is_none() {
            way.cut_after = self.road.take_cut(self.direction());
        }
        let (passed, is_cut) = match &mut way.cut_after {
            Some(left) if *left < taken => (std::mem::take(left), true),
            Some(left) => {
                *left -= taken;
                (taken, false)
            }
            None => (taken, false),
        };
        way.bytes += passed;
        way.send(&self.road, Piece::Data(Bytes::copy_from_slice(&bytes[..passed])));
        if is_cut {
            way.send(&self.road, Piece::Reset);
        }
        Poll::Ready(Ok(taken))
    }

    /// Waits until `at`; ready at once when that has passed.
    fn poll_until(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context)
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let line = this.line.clone();
            let mut shared = line.lock();
            if shared.reset {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            let way = &mut shared.ways[1 - this.side];
            way.reader = Some(context.waker().clone());
            if this.road.is_silent() {
                return Poll::Pending;
            }
            let due = way.pieces.front().map(|(due, _)| *due).or(way.end);
            let Some(due) = due else { return Poll::Pending };
            if due > Instant::now() {
                drop(shared);
                ready!(this.poll_until(context, due));
                continue;
            }
            match way.pieces.front_mut() {
                None => return Poll::Ready(Ok(())),
                Some((_, Piece::Reset)) => {
                    shared.reset();
                    return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                }
                Some((_, Piece::Data(bytes))) => {
                    let most = if this.road.is_crumbling() { 1 } else { usize::MAX };
                    let taken = bytes.len().min(buffer.remaining()).min(most);
                    buffer.put_slice(&bytes[..taken]);
                    bytes.advance(taken);
                    if bytes.is_empty() {
                        way.pieces.pop_front();
                    }
                    way.bytes -= taken;
                    wake(&mut way.writer);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(context, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.lock().ways[self.side].close(&self.road);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let shared = &mut *self.line.lock();
        let [one, two] = &mut shared.ways;
        let (out, back) = if self.side == 0 { (one, two) } else { (two, one) };
        back.reader_is_gone = true;
        wake(&mut back.writer);
        // As TCP does it: what nobody will read is answered by a reset, behind the last words.
        if !shared.reset && !back.pieces.is_empty() {
            out.send(&self.road, Piece::Reset);
        }
        out.close(&self.road);
    }
}
