//! Which instance gets a stream.
//!
//! The least loaded one, but for streams that go with others: what begins alike is best served by the
//! instance that has seen that beginning, whose cache holds it. Such streams choose by rendezvous
//! hashing (Thaler and Ravishankar 1996), and pass on whoever has a quarter more than its share
//! (consistent hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam 2016).

use super::{Fleet, Member};
use crate::lane::streams::Rank;
use crate::lane::{InstanceId, Instant};

/// More than this times its share of the streams, and an instance gets none for its cache's sake.
const BOUND: f64 = 1.25;

/// What a stream asks of its instance.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::lane) struct StreamAsk {
    /// Taken only where no other instance is usable at all, busy ones included.
    pub(in crate::lane) avoid: Option<InstanceId>,
    /// The same for streams that go together.
    pub(in crate::lane) affinity: Option<u64>,
    /// How it stands to other levels.
    pub(in crate::lane) rank: Rank,
}

impl Fleet {
    /// The instance that a stream goes to; `None` when there is no place.
    pub(in crate::lane) fn choose_stream(
        &self,
        now: Instant,
        ask: &StreamAsk,
    ) -> Option<InstanceId> {
        let shunned = ask.avoid.filter(|&avoid| self.has_other(now, avoid));
        let usable = || {
            let members = self.members.iter().zip((0..).map(InstanceId));
            members.filter(|(member, _)| member.is_usable(now))
        };
        let with_place = || {
            usable().filter(|&(member, id)| {
                let limit = &member.stream_limit;
                Some(id) != shunned && limit.has_place(now, member.streams, ask.rank)
            })
        };
        if let Some(affinity) = ask.affinity {
            let (streams, count) = usable()
                .fold((1.0, 0.0), |sum, (one, _)| (sum.0 + f64::from(one.streams), sum.1 + 1.0));
            let bound = (BOUND * streams / f64::max(count, 1.0)).ceil();
            let home = with_place()
                .filter(|(member, _)| f64::from(member.streams) < bound)
                .max_by_key(|&(_, id)| weight(affinity, id));
            if let Some((_, id)) = home {
                return Some(id);
            }
        }
        let least = with_place().min_by(|(one, _), (other, _)| {
            let load = |member: &Member| {
                f64::from(member.streams) / f64::from(member.stream_limit.limit())
            };
            load(one).total_cmp(&load(other)).then(one.last_sent.cmp(&other.last_sent))
        });
        least.map(|(_, id)| id)
    }
}

/// How much an instance suits streams of an affinity: as good as random (the finalizer of SplitMix64).
fn weight(affinity: u64, id: InstanceId) -> u64 {
    let mut mixed = affinity ^ u64::from(id.0).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Health, LanePlan, Track};

    fn fleet(instances: u32, stream_slots: u32) -> Fleet {
        let plan = LanePlan { instances, stream_slots: Some(stream_slots), ..LanePlan::default() };
        let mut fleet = Fleet::new(&plan);
        for id in (0..instances).map(InstanceId) {
            fleet.set_health(Instant::default(), id, Health::Up);
        }
        fleet
    }

    fn send(fleet: &mut Fleet, ask: StreamAsk) -> Option<u32> {
        let now = Instant::default();
        let id = fleet.choose_stream(now, &ask)?;
        fleet.sent(now, id, Track::Stream, 1);
        Some(id.0)
    }

    #[test]
    fn what_begins_alike_goes_to_one_instance_until_that_has_more_than_its_share() {
        let mut fleet = fleet(4, 100);
        for affinity in 0..200 {
            send(&mut fleet, StreamAsk { affinity: Some(affinity % 40), ..StreamAsk::default() });
        }
        let streams: Vec<u32> = fleet.members.iter().map(|member| member.streams).collect();
        assert!(streams.iter().all(|&streams| (25..=63).contains(&streams)), "{streams:?}");
        let mut lone = self::fleet(4, 100);
        let homes = [(); 3].map(|()| {
            let home = send(&mut lone, StreamAsk { affinity: Some(7), ..StreamAsk::default() });
            if let Some(id) = home.map(InstanceId) {
                lone.returned(Instant::default(), id, Track::Stream, 1);
            }
            home
        });
        assert!(homes.windows(2).all(|pair| pair[0] == pair[1]), "{homes:?}");
    }

    #[test]
    fn when_an_instance_goes_only_its_own_streams_move() {
        let (mut moved, mut stayed) = (0, 0);
        for affinity in 0..100 {
            let ask = StreamAsk { affinity: Some(affinity), ..StreamAsk::default() };
            let mut fleet = fleet(4, 100);
            let before = fleet.choose_stream(Instant::default(), &ask);
            fleet.set_health(Instant::default(), InstanceId(2), Health::Down);
            let after = fleet.choose_stream(Instant::default(), &ask);
            if before == after {
                stayed += 1;
            } else {
                moved += 1;
            }
            assert!(before == after || before == Some(InstanceId(2)));
        }
        assert!(moved > 10 && stayed > 60, "{moved} moved, {stayed} stayed");
    }

    #[test]
    fn who_yields_leaves_spare_places() {
        let mut fleet = fleet(1, 40);
        let bulk = StreamAsk { rank: Rank::Yields, ..StreamAsk::default() };
        let taken = std::iter::from_fn(|| send(&mut fleet, bulk)).count();
        assert_eq!(taken, 38);
        assert_eq!(std::iter::from_fn(|| send(&mut fleet, StreamAsk::default())).count(), 2);
    }
}
