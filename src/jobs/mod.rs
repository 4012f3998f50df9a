//! Jobs: OpenAI's Batch API. Files of requests come in, are answered when there is nothing more
//! urgent, and leave as files of answers.
//!
//! Everything is kept in plain files below one directory ([`Jobs::open`]). The answers of a job are
//! an append-only file of whole lines, each of which says which line of the input it answers, so
//! that file *is* the journal: what it holds is done, what it does not hold is still to do, and
//! there is nothing beside it that could say otherwise. That is why this is no embedded database,
//! which would be a second truth next to the file that callers download. All that changes in place
//! is one small document for each job, replaced whole by a rename.
//!
//! A process that is killed leaves a torn last line at worst; it is cut off, and its request is
//! made again. A call may be made twice, its answer is written once.
//!
//! `state` is the machine of a batch, `window` decides how many lines a model can use; both are
//! pure. `run` takes a job from one status to the next until its end, `validate`, `work` and
//! `deliver` do that work. What would be called a batch elsewhere is a job here, and only the API
//! says batch: a batch is what an instance is sent.

mod call;
mod create;
mod deliver;
mod disk;
mod endpoint;
mod feed;
mod files;
mod gate;
mod id;
mod job;
mod line;
mod lines;
mod list;
mod object;
mod open;
mod owner;
mod record;
mod requests;
mod result_line;
mod results;
mod retry;
mod run;
mod runner;
mod scan;
mod state;
mod upload;
mod validate;
mod window;
mod work;

pub use files::FileRecord;
pub use list::{List, Page};
pub use object::{BatchObject, Deleted, FileObject};
pub use open::OpenError;
pub use owner::{Caller, Owner};
pub use requests::{Jobs, JobsStatus};
pub use runner::Runner;
pub use upload::{FileTerms, KEEP_SECONDS, Upload};
