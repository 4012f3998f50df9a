//! Files that are sent as `multipart/form-data`: to the disk as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use multer::{Constraints, Field, Multipart, SizeLimit};

use super::super::body::Unread;
use crate::call::{Fault, FaultKind};
use crate::jobs::{FileObject, FileTerms, Jobs, KEEP_SECONDS, Owner, Upload};
use crate::wire::intake::Intake;

/// Bytes of all that comes beside the file.
const LONGEST_REST: u64 = 64 << 10;
/// Bytes of what is not yet known to be of which field.
const LONGEST_UNREAD: u64 = 4 << 20;
/// Bytes of a field that is no file.
const LONGEST_TEXT: u64 = 1 << 10;
/// Parts of a form; there is use for four.
const MOST_FIELDS: usize = 16;

/// What a form said so far.
#[derive(Default)]
struct Form {
    upload: Option<Upload>,
    filename: String,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

/// Takes a file in.
///
/// # Errors
/// When the form is wrong or lacks something, the file is too large, or the disk fails. What came of
/// the file by then is removed.
pub(super) async fn receive(
    jobs: &Jobs,
    owner: &Owner,
    headers: &HeaderMap,
    body: &mut Unread,
    intake: &Intake,
) -> Result<FileObject, Fault> {
    let boundary = boundary(headers)?;
    let most = jobs.max_file_bytes();
    let most_in_all = most.saturating_add(LONGEST_REST);
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|announced: u64| announced > most_in_all) {
        return Err(too_large(most));
    }
    let limits = SizeLimit::new().whole_stream(most_in_all);
    let constraints = Constraints::new().size_limit(limits);
    let used = Arc::new(AtomicU64::new(0));
    let frames = Frames::of(body.take(), intake, Arc::clone(&used));
    let mut multipart = Multipart::with_constraints(frames, boundary, constraints);
    let mut form = Form::default();
    for _ in 0..MOST_FIELDS {
        let Some(field) = multipart.next_field().await.map_err(|error| wrong(error, most))? else {
            return form.finish().await;
        };
        form.take(jobs, owner, field, &used).await?;
    }
    Err(Fault::invalid("body", format!("the form has more than {MOST_FIELDS} fields")))
}

fn boundary(headers: &HeaderMap) -> Result<String, Fault> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    multer::parse_boundary(content_type.unwrap_or_default()).map_err(|_| {
        let message = "a file is sent as multipart/form-data, with the fields 'file' and 'purpose'";
        Fault::invalid("content-type", message)
    })
}

impl Form {
    async fn take(
        &mut self,
        jobs: &Jobs,
        owner: &Owner,
        field: Field<'_>,
        used: &AtomicU64,
    ) -> Result<(), Fault> {
        let most = jobs.max_file_bytes();
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if self.upload.is_some() {
                return Err(Fault::invalid("file", "field 'file' is there twice"));
            }
            self.filename = field.file_name().unwrap_or_default().to_owned();
            let upload = self.upload.insert(jobs.upload(owner).await?);
            return read_file(field, upload, used, most).await;
        }
        let text = read_text(field, used, most).await?;
        match name.as_str() {
            "purpose" => self.purpose = Some(text),
            "expires_after[anchor]" => self.anchor = Some(text),
            "expires_after[seconds]" => self.seconds = Some(text),
            _ => {
                let message = format!("field '{}' is not known", name.escape_debug());
                return Err(Fault::invalid("body", message));
            }
        }
        Ok(())
    }

    async fn finish(self) -> Result<FileObject, Fault> {
        match self.purpose.as_deref() {
            Some("batch") => {}
            Some(_) => {
                let message = "'purpose' must be \"batch\": files serve batches only";
                return Err(Fault::invalid("purpose", message));
            }
            None => return Err(Fault::invalid("purpose", "field 'purpose' is missing")),
        }
        let keep_seconds = match (self.anchor.as_deref(), self.seconds.as_deref()) {
            (None, None) => None,
            (Some("created_at"), Some(seconds)) => {
                let seconds = seconds.parse().ok().filter(|it| KEEP_SECONDS.contains(it));
                Some(seconds.ok_or_else(wrong_expiry)?)
            }
            _ => return Err(wrong_expiry()),
        };
        let missing = || Fault::invalid("file", "field 'file' is missing");
        let upload = self.upload.ok_or_else(missing)?;
        upload.finish(FileTerms { filename: self.filename, keep_seconds }).await
    }
}

fn wrong_expiry() -> Fault {
    let (least, most) = (KEEP_SECONDS.start(), KEEP_SECONDS.end());
    let message = format!(
        "'expires_after' must have the anchor \"created_at\" and {least} to {most} seconds"
    );
    Fault::invalid("expires_after", message)
}

async fn read_file(
    mut field: Field<'_>,
    upload: &mut Upload,
    used: &AtomicU64,
    most: u64,
) -> Result<(), Fault> {
    while let Some(chunk) = field.chunk().await.map_err(|error| wrong(error, most))? {
        upload.write(&chunk).await?;
        used.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn read_text(mut field: Field<'_>, used: &AtomicU64, most: u64) -> Result<String, Fault> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| wrong(error, most))? {
        if text.len() as u64 + chunk.len() as u64 > LONGEST_TEXT {
            let message = format!("a field is longer than {LONGEST_TEXT} bytes");
            return Err(Fault::invalid("body", message));
        }
        text.extend_from_slice(&chunk);
        used.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    String::from_utf8(text).map_err(|_| Fault::invalid("body", "a field is not UTF-8"))
}

fn wrong(error: multer::Error, most: u64) -> Fault {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<Fault>() {
            Ok(fault) => *fault,
            Err(error) => Fault::invalid("body", format!("the body broke off: {error}")),
        },
        multer::Error::StreamSizeExceeded { .. } => too_large(most),
        error => Fault::invalid("body", format!("the form cannot be read: {error}")),
    }
}

fn too_large(most: u64) -> Fault {
    let message = format!("the file is larger than {most} bytes (max_file_bytes)");
    Fault::new(FaultKind::TooLarge, message).with_field("file")
}

/// The body of a request, a frame at a time.
///
/// Whoever takes a form apart reads for as long as there is something to read. Here there is nothing
/// for a moment after each frame, so that it goes to the disk before the next one is taken; and where
/// nothing comes of what was read, as in a head without an end, that is the end.
struct Frames {
    frames: BoxStream<'static, Result<Bytes, Fault>>,
    given: u64,
    used: Arc<AtomicU64>,
    is_paused: bool,
}

impl Frames {
    fn of(body: Body, intake: &Intake, used: Arc<AtomicU64>) -> Self {
        let patience = intake.patience();
        let frames = stream::try_unfold((body, patience), async |(mut body, mut patience)| {
            while let Some(frame) = patience.wait(body.frame()).await? {
                let frame = frame.map_err(|error| {
                    Fault::invalid("body", format!("the body broke off: {error}"))
                })?;
                if let Ok(data) = frame.into_data() {
                    patience.got(data.len());
                    return Ok(Some((data, (body, patience))));
                }
            }
            Ok(None)
        });
        Self { frames: frames.boxed(), given: 0, used, is_paused: false }
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_paused) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.given.saturating_sub(self.used.load(Ordering::Relaxed)) > LONGEST_UNREAD {
            let fault = Fault::invalid("body", "the form cannot be read: a part has no end");
            return Poll::Ready(Some(Err(fault)));
        }
        let next = std::task::ready!(self.frames.poll_next_unpin(context));
        if let Some(Ok(data)) = &next {
            self.given += data.len() as u64;
            self.is_paused = true;
        }
        Poll::Ready(next)
    }
}
