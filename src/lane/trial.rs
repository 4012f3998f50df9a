//! Finding the bad call in a batch that failed.
//!
//! A batch that its instance answered with an error is cut in two and both halves are run, and so
//! on until the error is found or nothing fails any more: at most 2n - 1 runs for n calls, about
//! 2 log2(n) for one culprit. The breaker does not hear of such a failure before the halves have
//! reported: where one of them fails for good and another is served, it was the call and not the
//! instance. Where every one of them is served, it was the size, if the same instance served any of
//! them, and else the instance: a call that failed by itself is tried on another one, too.

use std::collections::{BTreeMap, VecDeque};

use super::offenders::Offender;
use super::{InstanceId, Member};

/// Failures without any success that make it the instance and not the calls.
const CONVICTED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CaseId(u64);

/// A part of a failed batch that waits for its run.
#[derive(Debug)]
pub(super) struct Trial<P> {
    pub(super) members: Vec<Member<P>>,
    pub(super) case: CaseId,
}

impl<P> Trial<P> {
    /// Whether any of its calls was lost with an instance before.
    pub(super) fn is_suspect(&self) -> bool {
        self.members.iter().any(|member| member.losses > 0)
    }
}

/// The parts of failed batches that wait for their runs, and what is known of each failure.
#[derive(Debug)]
pub(super) struct Trials<P> {
    waiting: VecDeque<Trial<P>>,
    cases: BTreeMap<CaseId, Case>,
    next: u64,
}

#[derive(Debug)]
struct Case {
    /// The instance and the rows of the batch that failed first.
    first: (InstanceId, u32),
    /// Parts that have not reported.
    open: u32,
    /// Who has served a part.
    served_by: Vec<InstanceId>,
    any_culprit: bool,
    /// Calls that failed by themselves.
    culprits: Vec<Offender>,
    /// Who failed, as long as it may have been the instance.
    accused: Vec<InstanceId>,
}

/// What a case has shown once it is closed, or before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Instances that failed and are to blame for it.
    pub(super) convicted: Vec<InstanceId>,
    /// The rows that were too many for an instance: the batch failed, and every part was served.
    pub(super) too_many_rows: Option<(InstanceId, u32)>,
    /// Calls that failed while others of their batch were served.
    pub(super) offenders: Vec<Offender>,
}

impl<P> Trials<P> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), cases: BTreeMap::new(), next: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next part to be run; `no_suspects` while calls that were lost with an instance before are
    /// on their way, for these go one part at a time.
    pub(super) fn pop(&mut self, no_suspects: bool) -> Option<Trial<P>> {
        let next = self.waiting.iter().position(|trial| !(no_suspects && trial.is_suspect()))?;
        self.waiting.remove(next)
    }

    /// Whether calls wait that were lost with an instance before.
    pub(super) fn has_suspects(&self) -> bool {
        self.waiting.iter().any(Trial::is_suspect)
    }

    pub(super) fn put_back(&mut self, trial: Trial<P>) {
        self.waiting.push_front(trial);
    }

    /// Opens the case of a batch of `rows` that `instance` failed.
    pub(super) fn open(&mut self, instance: InstanceId, rows: u32) -> CaseId {
        let id = CaseId(self.next);
        self.next += 1;
        let first = (instance, rows);
        let case = Case {
            first,
            open: 1,
            served_by: Vec::new(),
            any_culprit: false,
            culprits: Vec::new(),
            accused: Vec::new(),
        };
        self.cases.insert(id, case);
        id
    }

    /// Replaces a part of `case` that failed by two. Halves of a batch are run in breadth, so that
    /// a success shows early; halves of one call in depth, so that its first fault ends it.
    pub(super) fn halve(
        &mut self,
        case: CaseId,
        one: Vec<Member<P>>,
        two: Vec<Member<P>>,
        depth: bool,
    ) {
        if let Some(case) = self.cases.get_mut(&case) {
            case.open += 1;
        }
        let (one, two) = (Trial { members: one, case }, Trial { members: two, case });
        if depth {
            self.waiting.push_front(two);
            self.waiting.push_front(one);
        } else {
            self.waiting.push_back(one);
            self.waiting.push_back(two);
        }
    }

    /// Replaces a part of `case` that failed by several, which are run in their order.
    pub(super) fn split(&mut self, case: CaseId, parts: Vec<Vec<Member<P>>>) {
        if let Some(case) = self.cases.get_mut(&case) {
            let more = u32::try_from(parts.len()).unwrap_or(u32::MAX).saturating_sub(1);
            case.open = case.open.saturating_add(more);
        }
        self.waiting.extend(parts.into_iter().map(|members| Trial { members, case }));
    }

    /// Whether `instance` has served another part of `case`.
    pub(super) fn has_served(&self, case: CaseId, instance: InstanceId) -> bool {
        self.cases.get(&case).is_some_and(|case| case.served_by.contains(&instance))
    }

    /// A part of `case` is run once more.
    pub(super) fn again(&mut self, case: CaseId, members: Vec<Member<P>>) {
        self.waiting.push_back(Trial { members, case });
    }

    /// A run of `case` failed with an error of `instance` itself.
    pub(super) fn accuse(&mut self, case: CaseId, instance: InstanceId) -> Verdict {
        let Some(case) = self.cases.get_mut(&case) else { return Verdict::default() };
        case.accused.push(instance);
        if !case.served_by.is_empty() || case.accused.len() < CONVICTED {
            return Verdict::default();
        }
        Verdict { convicted: std::mem::take(&mut case.accused), ..Verdict::default() }
    }

    /// A part of `case` was served by `instance`.
    pub(super) fn served(&mut self, case: CaseId, instance: InstanceId) -> Verdict {
        if let Some(case) = self.cases.get_mut(&case)
            && !case.served_by.contains(&instance)
        {
            case.served_by.push(instance);
        }
        self.close(case)
    }

    /// A call of `case` failed by itself.
    pub(super) fn blame(&mut self, case: CaseId, culprit: Offender) {
        if let Some(case) = self.cases.get_mut(&case) {
            case.culprits.push(culprit);
        }
    }

    /// A part of `case` was given up, as a `culprit` or for another reason.
    pub(super) fn given_up(&mut self, case: CaseId, culprit: bool) -> Verdict {
        if let Some(case) = self.cases.get_mut(&case) {
            case.any_culprit |= culprit;
        }
        self.close(case)
    }

    /// A part has reported; the last one closes the case.
    fn close(&mut self, id: CaseId) -> Verdict {
        let Some(case) = self.cases.get_mut(&id) else { return Verdict::default() };
        case.open = case.open.saturating_sub(1);
        if case.open > 0 {
            return Verdict::default();
        }
        let Some(case) = self.cases.remove(&id) else { return Verdict::default() };
        let all_served = !case.served_by.is_empty() && !case.any_culprit;
        let elsewhere = !case.served_by.contains(&case.first.0);
        let only_elsewhere = all_served && elsewhere && !case.accused.is_empty();
        let convicts = case.served_by.is_empty() || only_elsewhere;
        Verdict {
            offenders: if case.served_by.is_empty() { Vec::new() } else { case.culprits },
            convicted: if convicts { case.accused } else { Vec::new() },
            too_many_rows: (all_served && !only_elsewhere).then_some(case.first),
        }
    }

    /// Takes the parts that wait away, for nobody will run them.
    pub(super) fn drain(&mut self) -> Vec<Trial<P>> {
        self.waiting.drain(..).collect()
    }

    /// Takes a call out of a waiting part, for its caller went.
    pub(super) fn remove(&mut self, matches: impl Fn(&Member<P>) -> bool) -> Option<Member<P>> {
        self.waiting.iter_mut().find_map(|trial| {
            let index = trial.members.iter().position(&matches)?;
            Some(trial.members.remove(index))
        })
    }
}
