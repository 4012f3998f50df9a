//! How many batches an instance works on at once, found out.
//!
//! A plain server takes one after the other; one with several workers, or one that batches by itself,
//! takes more, and holding calls back from it would only make them wait. A batch that is sent although
//! every slot is in use tells: where one is taken after the other it is late by what the running one
//! still needed, and where both are worked on it is not late at all. So now and then one is sent, and
//! where a few of them were not late there are twice as many slots.

/// Batches between two looks, at first.
const LOOK_EVERY: u32 = 64;
/// And while looks succeed, or fail again and again.
const SOONEST: u32 = 8;
const LATEST: u32 = 2048;
/// With a backlog, so many times as often.
const HURRY: u32 = 8;
/// Looks that are needed to give an instance more slots; one is enough not to.
const LOOKS: u32 = 4;
/// Batches in new slots until these are taken for proven.
const TRIALS: u32 = 16;
/// No more slots than this are learned.
const MOST: u32 = 32;
/// Late by less than this share of what the running batch needed: worked on at once.
const AT_ONCE: f64 = 0.25;
/// Late by more than this: one after the other.
const ONE_BY_ONE: f64 = 0.5;

/// The batches that an instance may have at once.
#[derive(Clone, Debug)]
pub(super) struct Width {
    slots: u32,
    /// So many of them have shown that they are worked on at once.
    proven: u32,
    learns: bool,
    /// Batches since the last look, and how many there are to be.
    since: u32,
    every: u32,
    looks: u32,
    late: f64,
    /// Batches in slots that are not proven, and how late they were, smoothed.
    trials: u32,
    trial_late: f64,
}

impl Width {
    pub(super) fn new(slots: u32, learns: bool) -> Self {
        Self {
            slots: slots.max(1),
            proven: slots.max(1),
            learns,
            since: 0,
            every: LOOK_EVERY,
            looks: 0,
            late: 0.0,
            trials: 0,
            trial_late: 0.0,
        }
    }

    /// Knows what another one has found out of the same instance, unless somebody said how many.
    pub(super) fn succeed(&mut self, before: &Self) {
        if self.learns && before.learns {
            *self = before.clone();
        }
    }

    /// Somebody says how many.
    pub(super) fn tell(&mut self, slots: u32) {
        *self = Self::new(slots, false);
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// So many batches at once take no longer than each by itself.
    pub(super) fn proven(&self) -> u32 {
        self.proven
    }

    pub(super) fn sent(&mut self) {
        self.since = self.since.saturating_add(1);
    }

    /// Whether a batch should be sent although every slot is in use. With a backlog it is urgent to
    /// know; but while urgent calls wait among others, which a look delays, only as long as nothing is
    /// known.
    pub(super) fn wants_look(&self, backlog: bool, mixed: bool) -> bool {
        let hurry = backlog && (!mixed || self.every <= LOOK_EVERY);
        let every = if hurry { self.every / HURRY } else { self.every };
        self.learns && self.slots < MOST && self.proven == self.slots && self.since >= every
    }

    /// Such a batch has been sent.
    pub(super) fn look(&mut self) {
        self.since = 0;
    }

    /// Such a batch is back, late by this share of what the running one needed.
    pub(super) fn looked(&mut self, late: f64) {
        self.late += late.clamp(-1.0, 2.0);
        self.looks += 1;
        // To hold back costs a wide instance something; to crowd a plain one costs its callers.
        if self.looks < LOOKS && late < ONE_BY_ONE {
            return;
        }
        if self.late / f64::from(self.looks) < AT_ONCE && late < ONE_BY_ONE {
            self.slots = (self.slots * 2).min(MOST);
            self.every = SOONEST;
            (self.trials, self.trial_late) = (0, 0.0);
        } else {
            self.every = (self.every * 4).clamp(LOOK_EVERY, LATEST);
        }
        (self.looks, self.late) = (0, 0.0);
    }

    /// A batch is back that had a slot which is not proven, late by this share of what the first of
    /// the others needed.
    pub(super) fn tried(&mut self, late: f64) {
        if self.proven == self.slots {
            return;
        }
        self.trials += 1;
        let weight = (1.0 / f64::from(self.trials)).max(0.1);
        self.trial_late += weight * (late.clamp(-1.0, 2.0) - self.trial_late);
        if self.trials >= LOOKS && self.trial_late > ONE_BY_ONE {
            self.slots -= 1;
            self.every = LOOK_EVERY;
            (self.trials, self.trial_late) = (0, 0.0);
        } else if self.trials >= TRIALS && self.trial_late < AT_ONCE {
            self.proven = self.slots;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: &mut Width, late: f64) {
        for _ in 0..LATEST {
            if width.wants_look(false, false) {
                break;
            }
            width.sent();
        }
        width.look();
        width.looked(late);
    }

    #[test]
    fn a_plain_server_keeps_one_slot_and_is_asked_ever_more_rarely() {
        let mut width = Width::new(1, true);
        for _ in 0..8 {
            look(&mut width, 0.97);
        }
        assert_eq!(width.slots(), 1);
        (0..LATEST / HURRY - 1).for_each(|_| width.sent());
        assert!(!width.wants_look(false, false));
    }

    #[test]
    fn a_wide_server_gets_slots_until_batches_are_late() {
        let mut width = Width::new(1, true);
        for _ in 0..LOOKS {
            look(&mut width, 0.02);
        }
        assert_eq!((width.slots(), width.proven()), (2, 1));
        (0..TRIALS).for_each(|_| width.tried(0.02));
        assert_eq!((width.slots(), width.proven()), (2, 2));
        for _ in 0..LOOKS {
            look(&mut width, 0.02);
        }
        (0..LOOKS).for_each(|_| width.tried(1.0));
        assert_eq!((width.slots(), width.proven()), (3, 2));
        (0..LOOKS).for_each(|_| width.tried(1.0));
        assert_eq!((width.slots(), width.proven()), (2, 2));
    }

    #[test]
    fn what_is_told_is_not_questioned() {
        let mut width = Width::new(1, true);
        width.tell(2);
        (0..LATEST).for_each(|_| width.sent());
        assert!(!width.wants_look(true, false));
        (0..100).for_each(|_| width.tried(2.0));
        assert_eq!(width.slots(), 2);
    }
}
