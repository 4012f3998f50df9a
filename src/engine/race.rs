//! An instance is asked, and where the lane wants that a second one as well: the first good answer
//! counts, and whoever has not answered by then is given up.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::clock::Clock;
use super::guard::SlotGuard;
use super::run::blame_label;
use super::slot::joined;
use super::spans::BatchSpans;
use crate::call::{Answer, Call, Fault, RelayAnswer, SharedSpan, Work};
use crate::instance::{BatchContext, BoxFuture, Failure, Instance};
use crate::lane::{Blame, Member, Outcome};

/// An instance as a batch sees it.
pub(super) struct Target {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) name: Arc<str>,
    pub(super) index: usize,
}

/// A second instance, and its slot, which is free again as soon as this is dropped.
pub(super) struct Second {
    pub(super) target: Target,
    pub(super) guard: SlotGuard,
}

/// What a batch may be told while it is on its way, each at most once.
pub(super) struct Signals {
    /// Its calls are wanted back.
    pub(super) recalled: oneshot::Receiver<()>,
    /// A second instance is to be asked, too.
    pub(super) hedged: oneshot::Receiver<Second>,
}

/// Who answered, and with what.
pub(super) enum Finish {
    /// The instance that was asked first, or nobody.
    First(Result<Answer, Failure>),
    /// The second one; the first one had failed with this blame, or has not answered.
    Second(Answer, Second, Option<Blame>),
    /// The calls were called back; the first one still works on them.
    Recalled(Asked),
}

pub(super) type Asked = BoxFuture<'static, Result<Answer, Failure>>;

/// A request to the second instance.
struct Hedge {
    asked: Asked,
    second: Second,
}

/// Asks `first`, and whoever is named later.
pub(super) async fn race(
    first: &Target,
    clock: Clock,
    members: &[Member<Call>],
    work: Work,
    signals: Signals,
    spans: &BatchSpans,
) -> Finish {
    let mut recalled = signals.recalled.fuse();
    let mut hedged = signals.hedged.fuse();
    let span = spans.asked(&first.name, members);
    spans.waited(members, clock, &span);
    let mut asked = ask(first, clock, members, work, span);
    let mut failed: Option<Failure> = None;
    let mut hedge: Option<Hedge> = None;
    loop {
        tokio::select! {
            biased;
            outcome = &mut asked, if failed.is_none() => match outcome {
                // The other one may know better.
                Err(failure) if hedge.is_some() => failed = Some(failure),
                outcome => return Finish::First(outcome),
            },
            Some((outcome, second)) = answer_of(&mut hedge) => match (outcome, failed.take()) {
                (Ok(answer), failed) => {
                    return Finish::Second(answer, second, failed.map(|failure| failure.blame));
                }
                (Err(failure), failed) => {
                    second.guard.done(Outcome::Failed(Vec::new(), failure.blame));
                    if let Some(failed) = failed {
                        return Finish::First(Err(failed));
                    }
                }
            },
            Ok(()) = &mut recalled => return match failed {
                Some(failure) => Finish::First(Err(failure)),
                None => Finish::Recalled(asked),
            },
            Ok(second) = &mut hedged => {
                let span = spans.asked(&second.target.name, members);
                let asked = ask(&second.target, clock, members, joined(members), span);
                hedge = Some(Hedge { asked, second });
            }
        }
    }
}

/// What comes of the second request, which is over then; `None` when there is none.
async fn answer_of(hedge: &mut Option<Hedge>) -> Option<(Result<Answer, Failure>, Second)> {
    let outcome = (&mut hedge.as_mut()?.asked).await;
    hedge.take().map(|hedge| (outcome, hedge.second))
}

/// Asks an instance, until the last of the callers stops waiting.
fn ask(
    target: &Target,
    clock: Clock,
    members: &[Member<Call>],
    work: Work,
    span: SharedSpan,
) -> Asked {
    let latest = members.iter().map(|member| member.ticket.deadline).max().unwrap_or_default();
    let oldest = members.iter().map(|member| member.ticket.arrived).min().unwrap_or_default();
    let lone = match members {
        [lone] => Some(&lone.payload.terms),
        _ => None,
    };
    let instance = Arc::clone(&target.instance);
    let deadline: Instant = clock.to_runtime(latest);
    let batch = BatchContext {
        request_id: lone.map(|terms| terms.request_id.clone()).unwrap_or_default(),
        deadline,
        // Where nothing is traced here, the instance goes on where the caller is.
        trace: span.trace().or_else(|| lone.and_then(|terms| terms.trace.clone())),
    };
    Box::pin(async move {
        let answer = tokio::time::timeout_at(deadline, instance.run(work, batch)).await;
        let answer = answer.unwrap_or_else(|_| {
            let waited = clock.now().since(oldest).into();
            Err(Failure { blame: Blame::TooSlow, fault: Fault::deadline(waited) })
        });
        match answer {
            Ok(Answer::Relay(answer)) => Ok(Answer::Relay(RelayAnswer { span, ..answer })),
            Ok(answer) => Ok(answer),
            Err(failure) => {
                span.fail(blame_label(failure.blame), || failure.fault.message.clone());
                Err(failure)
            }
        }
    })
}
