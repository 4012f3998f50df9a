//! The requests of an input that are still to be answered, some at a time.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::endpoint::Endpoint;
use super::line::RequestLine;
use super::lines::{LineRead, LineReader};
use super::open::{CHUNK, units};
use super::results::Answered;
use super::{disk, record};

/// A request that is to be answered.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Which of the input, from 0.
    pub(super) number: u32,
    pub(super) custom_id: String,
    pub(super) body: Bytes,
    /// The memory that it takes.
    _memory: Arc<OwnedSemaphorePermit>,
}

/// Where the requests come from.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) endpoint: Endpoint,
    /// Bytes of its longest line.
    pub(super) longest: u64,
    /// The requests that are answered already.
    pub(super) answered: Arc<Answered>,
    /// What requests may take of it, and how much that is in all.
    pub(super) memory: (Arc<Semaphore>, u32),
}

struct Reading {
    lines: LineReader<BufReader<File>>,
    input: Input,
    /// The next request.
    number: u32,
}

/// The requests of an input that are not answered. As many are in memory at once as there is
/// memory for; at the end of the input there may be less to come than was read before, and when the
/// last of them is dropped all memory is free again.
pub(super) async fn requests(input: Input) -> io::Result<impl Stream<Item = io::Result<Request>>> {
    let path = input.path.clone();
    let file = disk::blocking(move || File::open(path)).await?;
    let source = BufReader::with_capacity(64 << 10, file);
    let lines = LineReader::new(source, u64::MAX);
    let reading = Reading { lines, input, number: 0 };
    let chunks = stream::try_unfold(Some(reading), |reading| async {
        let Some(reading) = reading else { return Ok(None) };
        let (memory, all) = &reading.input.memory;
        let wanted = units(reading.input.longest + CHUNK).min(*all);
        let memory = Arc::clone(memory).acquire_many_owned(wanted).await;
        let memory = memory.map_err(io::Error::other)?;
        disk::blocking(move || read_chunk(reading, memory)).await.map(Some)
    });
    Ok(chunks.map_ok(|requests| stream::iter(requests.into_iter().map(Ok))).try_flatten())
}

type Chunk = (Vec<Request>, Option<Reading>);

/// The next requests, and how to go on when there are more.
fn read_chunk(mut reading: Reading, mut memory: OwnedSemaphorePermit) -> io::Result<Chunk> {
    let mut wanted = Vec::new();
    let (mut line, mut bytes, mut is_done) = (Vec::new(), 0, false);
    while bytes < CHUNK {
        match reading.lines.next(&mut line)? {
            LineRead::End => {
                is_done = true;
                break;
            }
            LineRead::TooLong(_) => return Err(io::ErrorKind::FileTooLarge.into()),
            LineRead::Line(_) => {}
        }
        let number = reading.number;
        reading.number += 1;
        if reading.input.answered.contains(number) {
            continue;
        }
        bytes += line.len() as u64;
        wanted.push((number, std::mem::take(&mut line)));
    }
    // What was not needed.
    let spare = memory.num_permits().saturating_sub(units(bytes) as usize);
    drop(memory.split(spare));
    let memory = Arc::new(memory);
    let requests = wanted.into_iter().map(|(number, line)| {
        let line = Bytes::from(line);
        // It was looked through before the batch began.
        let request =
            RequestLine::parse(&line, reading.input.endpoint).map_err(|error| changed(&error))?;
        Ok(Request {
            number,
            custom_id: request.custom_id.clone().into_owned(),
            body: line.slice_ref(request.body.as_bytes()),
            _memory: Arc::clone(&memory),
        })
    });
    let requests = requests.collect::<io::Result<_>>()?;
    Ok((requests, (!is_done).then_some(reading)))
}

fn changed(error: &record::LineError) -> io::Error {
    let message = format!("the input has changed since it was looked through: {}", error.message);
    io::Error::new(io::ErrorKind::InvalidData, message)
}
