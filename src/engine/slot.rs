//! One batch on its way: join, send, split, reply.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use async_channel::Sender;
use tokio::time::Instant;

use super::clock::Clock;
use super::guard::SlotGuard;
use super::race::{Asked, Finish, Signals, Target, race};
use super::run::{Message, with_statistics};
use super::spans::{BatchSpans, StreamSpans};
use super::statistics::{BatchTimes, ModelStatistics};
use super::stream::{Content, hold_slot};
use crate::call::{
    Answer, Call, Fault, FaultKind, InferAnswer, InferRequest, ItemsAnswer, ItemsRequest,
    RelayAnswer, Served, Timing, Usage, Work,
};
use crate::instance::{BoxFuture, Failure};
use crate::lane::{Batch, Member, Outcome, SlotId};
use crate::telemetry::ModelMetrics;
use crate::tensor::{join, split};

/// What a batch needs on its way.
pub(super) struct SlotContext {
    pub(super) slot: SlotId,
    /// Where a stream tells how it ended.
    pub(super) inbox: Sender<Message>,
    pub(super) target: Target,
    pub(super) clock: Clock,
    pub(super) model: Arc<str>,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) statistics: Arc<Mutex<ModelStatistics>>,
}

/// How a batch landed.
pub(super) enum Landing {
    Done(Outcome<Call>),
    /// Its stream goes on, and tells by itself how it ended.
    Streaming,
    /// Its calls were called back. The future is what its instance still makes of it.
    Recalled(Vec<Member<Call>>, BoxFuture<'static, Outcome<Call>>),
}

/// Carries a batch to its instance and the answers back to the callers, unless its calls are called
/// back before they are answered.
pub(super) async fn carry(context: SlotContext, batch: Batch<Call>, signals: Signals) -> Landing {
    let cut = Instant::now();
    let Batch { mut members, rows, cause } = batch;
    let work = joined(&members);
    let joined_at = Instant::now();
    let SlotContext { slot, inbox, target, clock, model, metrics, statistics } = context;
    let spans = BatchSpans { spans: metrics.spans().clone(), model, rows, cause };
    let finish = race(&target, clock, &members, work, signals, &spans).await;
    let (outcome, target, overtaken) = match finish {
        Finish::First(outcome) => (outcome, target, None),
        Finish::Second(answer, second, blame) => {
            let own = blame.map_or(Outcome::Overtaken, |blame| Outcome::Failed(Vec::new(), blame));
            (Ok(answer), second.target, Some((second.guard, own)))
        }
        Finish::Recalled(asked) => return recall(&target, metrics, members, cut, asked),
    };
    let answered_at = Instant::now();
    if let Some(instance) = metrics.instances.get(target.index) {
        instance.batch_duration.record((answered_at - cut).as_secs_f64());
    }
    let failure = match outcome {
        Ok(Answer::Relay(answer)) => {
            let guard = SlotGuard::new(inbox, slot);
            relay(guard, &metrics, clock, members, answer, cut, target.name);
            return Landing::Streaming;
        }
        Ok(answer) => {
            let timing = |member: &Member<Call>| Timing {
                queue: clock.to_lane(cut).since(member.ticket.arrived).into(),
                batch: answered_at - cut,
                rows,
                instance: Arc::clone(&target.name),
            };
            let calls = u32::try_from(members.len()).unwrap_or(u32::MAX);
            match distribute(members, answer, timing) {
                Ok(batched) => {
                    let times = BatchTimes {
                        rows,
                        calls,
                        join: joined_at - cut,
                        infer: answered_at - joined_at,
                        split: answered_at.elapsed(),
                    };
                    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                    with_statistics(&statistics, |all| all.batch(&times, at));
                    let served = Outcome::Served { batched };
                    let Some((guard, own)) = overtaken else { return Landing::Done(served) };
                    guard.done(served);
                    return Landing::Done(own);
                }
                Err((back, failure)) => {
                    members = back;
                    failure
                }
            }
        }
        Err(failure) => failure,
    };
    if let Some((guard, _)) = overtaken {
        guard.done(Outcome::Failed(Vec::new(), failure.blame));
    }
    for member in &mut members {
        member.payload.comes_back(&failure.fault);
    }
    Landing::Done(Outcome::Failed(members, failure.blame))
}

/// Hands the calls back, and waits on for what the instance makes of them.
fn recall(
    target: &Target,
    metrics: Arc<ModelMetrics>,
    mut members: Vec<Member<Call>>,
    cut: Instant,
    asked: Asked,
) -> Landing {
    let message =
        format!("no reply within {} ms, far longer than usual", cut.elapsed().as_millis());
    let fault = Fault::new(FaultKind::Upstream, message);
    for member in &mut members {
        member.payload.comes_back(&fault);
    }
    let index = target.index;
    let rest = async move {
        let outcome = asked.await;
        if let Some(instance) = metrics.instances.get(index) {
            instance.batch_duration.record(cut.elapsed().as_secs_f64());
        }
        match outcome {
            Ok(_) => Outcome::Served { batched: true },
            Err(failure) => Outcome::Failed(Vec::new(), failure.blame),
        }
    };
    Landing::Recalled(members, Box::pin(rest))
}

/// One work for the whole batch.
pub(super) fn joined(members: &[Member<Call>]) -> Work {
    let mut works = members.iter().map(|member| &member.payload.work);
    let Some(first) = works.next() else { return Work::Infer(InferRequest::default()) };
    match first {
        Work::Relay(request) => Work::Relay(request.clone()),
        Work::Infer(request) if members.len() == 1 => Work::Infer(request.clone()),
        Work::Items(request) if members.len() == 1 => Work::Items(request.clone()),
        Work::Infer(model) => {
            let inputs = members.iter().filter_map(|member| match &member.payload.work {
                Work::Infer(request) => Some(request.inputs.as_slice()),
                _ => None,
            });
            Work::Infer(InferRequest {
                version: model.version.clone(),
                parameters: model.parameters.clone(),
                inputs: join(inputs),
                input_parameters: model.input_parameters.clone(),
                outputs: model.outputs.clone(),
            })
        }
        Work::Items(model) => {
            let items = members.iter().filter_map(|member| match &member.payload.work {
                Work::Items(request) => Some(request.items.iter().cloned()),
                _ => None,
            });
            Work::Items(ItemsRequest {
                route: model.route,
                items: items.flatten().collect(),
                options: model.options.clone(),
                body: None,
            })
        }
    }
}

type Undelivered = (Vec<Member<Call>>, Failure);

/// Gives every member its part of the answer. Returns whether the outputs had the batch's rows.
fn distribute(
    members: Vec<Member<Call>>,
    answer: Answer,
    timing: impl Fn(&Member<Call>) -> Timing,
) -> Result<bool, Undelivered> {
    match answer {
        Answer::Infer(answer) => distribute_tensors(members, answer, timing),
        Answer::Items(answer) => distribute_items(members, answer, timing),
        Answer::Relay(_) => {
            Err((members, Failure::broken("an answer of another kind than the request")))
        }
    }
}

fn distribute_tensors(
    members: Vec<Member<Call>>,
    answer: InferAnswer,
    timing: impl Fn(&Member<Call>) -> Timing,
) -> Result<bool, Undelivered> {
    let rows: Vec<u32> = members.iter().map(|member| member.ticket.rows).collect();
    let part = members.first().is_some_and(|member| member.payload.reply.is_part());
    if members.len() == 1 && !part {
        let Some(member) = members.into_iter().next() else { return Ok(true) };
        let rows = u64::from(member.ticket.rows);
        let shares = member.ticket.key.is_some();
        let batched =
            !shares || answer.outputs.iter().all(|output| output.shape().rows() == Some(rows));
        let timing = timing(&member);
        member.payload.reply.send(Ok(Served { answer: Answer::Infer(answer), timing }));
        return Ok(batched);
    }
    let parts = match split(&answer.outputs, &rows) {
        Ok(parts) => parts,
        Err(error) => return Err((members, Failure::not_batched(error.to_string()))),
    };
    for (member, outputs) in members.into_iter().zip(parts) {
        let answer = InferAnswer {
            version: answer.version.clone(),
            parameters: answer.parameters.clone(),
            outputs,
        };
        let timing = timing(&member);
        member.payload.reply.send(Ok(Served { answer: Answer::Infer(answer), timing }));
    }
    Ok(true)
}

fn distribute_items(
    members: Vec<Member<Call>>,
    answer: ItemsAnswer,
    timing: impl Fn(&Member<Call>) -> Timing,
) -> Result<bool, Undelivered> {
    let wanted: usize = members.iter().map(|member| member.ticket.rows as usize).sum();
    if wanted != answer.items.len() {
        let message = format!("{} outputs for {wanted} items", answer.items.len());
        return Err((members, Failure::not_batched(message)));
    }
    let weights: Vec<u64> = members.iter().map(|member| member.ticket.bytes.max(1)).collect();
    let usages = share_usage(answer.usage, &weights);
    let mut body = answer.body.filter(|_| members.len() == 1);
    let mut items = answer.items.into_iter();
    for (member, usage) in members.into_iter().zip(usages) {
        let answer = ItemsAnswer {
            items: items.by_ref().take(member.ticket.rows as usize).collect(),
            usage,
            body: body.take(),
        };
        let timing = timing(&member);
        member.payload.reply.send(Ok(Served { answer: Answer::Items(answer), timing }));
    }
    Ok(true)
}

/// Shares a batch's usage out by size, so that the shares add up (largest remainder).
fn share_usage(total: Option<Usage>, weights: &[u64]) -> Vec<Option<Usage>> {
    let Some(total) = total else { return vec![None; weights.len()] };
    let prompt = largest_remainder(total.prompt_tokens, weights);
    let all = largest_remainder(total.total_tokens, weights);
    prompt
        .into_iter()
        .zip(all)
        .map(|(prompt_tokens, total_tokens)| Some(Usage { prompt_tokens, total_tokens }))
        .collect()
}

fn largest_remainder(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum::<u128>().max(1);
    let exact = |weight: u64| u128::from(total) * u128::from(weight);
    let mut shares: Vec<u64> = weights
        .iter()
        .map(|&weight| u64::try_from(exact(weight) / sum).unwrap_or(u64::MAX))
        .collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| {
        std::cmp::Reverse(weights.get(index).map_or(0, |&weight| exact(weight) % sum))
    });
    let missing = total.saturating_sub(shares.iter().sum());
    for index in order.into_iter().take(usize::try_from(missing).unwrap_or(usize::MAX)) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    shares
}

/// Hands a relayed answer over; its body keeps the slot until it ends.
fn relay(
    guard: SlotGuard,
    metrics: &Arc<ModelMetrics>,
    clock: Clock,
    members: Vec<Member<Call>>,
    answer: RelayAnswer,
    cut: Instant,
    instance: Arc<str>,
) {
    let Some(member) = members.into_iter().next() else { return };
    let accepted = clock.to_runtime(member.ticket.arrived);
    let asks_for_events = matches!(&member.payload.work, Work::Relay(request) if request.stream);
    let content = match (answer.status.is_success(), asks_for_events) {
        (false, _) => Content::Refusal,
        (true, true) => Content::Events,
        (true, false) => Content::Whole,
    };
    let spans = StreamSpans::new(member.payload.span.clone(), answer.span);
    let body = hold_slot(answer.body, guard, Arc::clone(metrics), content, accepted, spans);
    let timing = Timing { queue: cut - accepted, batch: cut.elapsed(), rows: 1, instance };
    let span = member.payload.span.clone();
    let answer = Answer::Relay(RelayAnswer { body, span, ..answer });
    member.payload.reply.send(Ok(Served { answer, timing }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_add_up_and_follow_the_weights(
            total in 0_u64..10_000,
            weights in prop::collection::vec(1_u64..1000, 1..20),
        ) {
            let shares = largest_remainder(total, &weights);
            prop_assert_eq!(shares.iter().sum::<u64>(), total);
            let sum: u64 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = total as f64 * *weight as f64 / sum as f64;
                prop_assert!((*share as f64 - exact).abs() <= 1.0);
            }
        }
    }
}
