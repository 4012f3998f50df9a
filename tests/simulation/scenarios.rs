//! The worlds that are tried.

use batchwise::lane::Span;

use crate::world::{Habits, Report, World};

/// Runs a world for each seed, or for `SEED` alone.
fn worlds(seeds: std::ops::Range<u64>, habits: impl Fn(u64) -> Habits) -> Vec<Report> {
    let only = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(seeds, |seed| seed..seed + 1);
    seeds.map(|seed| World::run(habits(seed), seed)).collect()
}

#[test]
fn a_million_calls_are_each_answered_exactly_once() {
    let reports = worlds(0..20, |seed| Habits {
        calls: 50_000,
        instances: 1 + (seed % 4) as u32,
        max_batch_rows: Some(8 + (seed % 5) as u32 * 8),
        mean_gap: Span::from_nanos(150_000 + seed % 3 * 400_000),
        shapes: 1 + seed % 7,
        max_rows: 1 + seed % 2 * 49,
        cancels: 0.05,
        poison: 0.002,
        resets: 0.01,
        overloads: 0.01,
        freezes: 0.002,
        killers: 0.0005,
        alone: 0.02,
        deadline: Span::from_millis(300),
        objective: (seed % 3 == 0).then_some(Span::from_millis(60)),
        learn_slots: seed % 4 == 1,
        hedges: seed % 3 == 1,
        max_batch_bytes: (seed % 5 == 2).then_some(750),
        outages: 3,
        ..Habits::default()
    });
    let calls: usize = reports.iter().map(|r| r.answered + r.refused + r.cancelled).sum();
    assert_eq!(calls, 50_000 * reports.len());
    assert!(reports.iter().all(|report| report.answered > 0 && report.refused > 0));
}

#[test]
fn two_shapes_in_turn_still_make_full_batches() {
    for report in worlds(0..3, |_| Habits {
        instances: 1,
        shapes: 2,
        max_rows: 1,
        // 1.2 times what batches of 32 can bear.
        mean_gap: Span::from_nanos(677_000),
        queue_rows: 512,
        ..Habits::default()
    }) {
        let mean = report.batched_rows as f64 / report.batches as f64;
        // They are of several priorities: full is where one in twenty-five more would not pay.
        assert!(mean > 27.0, "mean batch {mean}");
    }
}

#[test]
fn a_bad_call_never_hurts_its_batch_mates() {
    for report in worlds(0..5, |_| Habits { poison: 0.01, max_rows: 1, ..Habits::default() }) {
        assert!(report.poisoned > 50);
        assert_eq!(report.reasons, [("Spent".to_owned(), report.poisoned)].into());
        assert_eq!(report.answered, 10_000 - report.poisoned);
    }
}

/// An instance that stands still for five seconds holds nobody up for more than an eighth of one.
#[test]
fn a_batch_that_is_overdue_is_served_by_another_instance() {
    for report in worlds(0..3, |_| Habits {
        calls: 20_000,
        instances: 4,
        max_rows: 1,
        mean_gap: Span::from_millis(1),
        freezes: 0.002,
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 20_000, "{:?}", report.reasons);
        assert!(report.recalled >= 5, "{} recalled", report.recalled);
        assert!(report.longest < Span::from_millis(125), "{:?}", report.longest);
    }
}

/// One batch in fifty takes five times as long, and a second instance that has nothing to do is asked.
#[test]
fn a_slow_batch_is_hedged_where_somebody_has_time() {
    let [without, with] = [false, true].map(|hedges| {
        worlds(0..3, |_| Habits {
            calls: 20_000,
            instances: 4,
            max_rows: 1,
            mean_gap: Span::from_millis(5),
            freezes: 0.02,
            freeze: Span::from_millis(60),
            hedges,
            ..Habits::default()
        })
    });
    for (without, with) in without.iter().zip(&with) {
        assert_eq!(with.answered, 20_000, "{:?}", with.reasons);
        let share = with.hedged as f64 / with.batches as f64;
        assert!((0.02..0.12).contains(&share), "{share} of the batches");
        assert!(with.overtaken * 3 > with.hedged, "{} of {}", with.overtaken, with.hedged);
        assert!(with.late * 5 < without.late, "{} late, {} without", with.late, without.late);
    }
}

/// Where everybody is busy there is nobody to ask a second time.
#[test]
fn hedges_take_nothing_from_who_waits() {
    for report in worlds(0..3, |_| Habits {
        calls: 20_000,
        instances: 2,
        max_rows: 1,
        // 1.5 times what full batches can bear.
        mean_gap: Span::from_nanos(270_000),
        freezes: 0.02,
        freeze: Span::from_millis(60),
        hedges: true,
        ..Habits::default()
    }) {
        assert!(report.hedged * 50 < report.batches, "{} of {}", report.hedged, report.batches);
    }
}

/// One batch in a hundred takes five times as long, and always has: soon nobody is in a hurry.
#[test]
fn what_is_often_slow_is_not_overdue() {
    for report in worlds(0..3, |_| Habits {
        calls: 50_000,
        instances: 2,
        max_rows: 1,
        freezes: 0.01,
        freeze: Span::from_millis(60),
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 50_000, "{:?}", report.reasons);
        assert!(report.recalled < 40, "{} recalled", report.recalled);
    }
}

#[test]
fn an_input_that_kills_instances_does_not_walk_through_the_fleet() {
    let reports = worlds(0..3, |_| Habits {
        calls: 20_000,
        instances: 4,
        max_rows: 1,
        mean_gap: Span::from_millis(1),
        killers: 0.0005,
        ..Habits::default()
    });
    assert!(reports.iter().map(|report| report.killers).sum::<usize>() >= 10);
    for report in reports {
        assert_eq!(report.reasons, [("Spent".to_owned(), report.killers)].into());
        assert!(report.killed <= 3 * report.killers, "{report:?}");
    }
}

#[test]
fn an_unknown_limit_is_learned_from_refusals() {
    for report in worlds(0..5, |_| Habits {
        max_batch_rows: None,
        real_limit: 20,
        max_rows: 1,
        mean_gap: Span::from_nanos(300_000),
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 10_000, "{:?}", report.reasons);
        assert!(report.failed_batches < 20, "{} batches failed", report.failed_batches);
    }
}

#[test]
fn a_call_larger_than_the_unknown_limit_is_cut_until_it_fits() {
    for report in worlds(0..5, |_| Habits {
        max_batch_rows: None,
        real_limit: 10,
        max_rows: 50,
        mean_gap: Span::from_millis(20),
        calls: 1_000,
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 1_000, "{:?}", report.reasons);
    }
}

#[test]
fn a_dead_instance_costs_nobody_an_answer() {
    for report in
        worlds(0..5, |_| Habits { outages: 1, mean_gap: Span::from_millis(2), ..Habits::default() })
    {
        assert_eq!(report.answered, 10_000, "{:?}", report.reasons);
    }
}

#[test]
fn a_busy_instance_costs_nobody_an_answer() {
    for report in worlds(0..5, |_| Habits {
        overloads: 0.05,
        mean_gap: Span::from_millis(2),
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 10_000, "{:?}", report.reasons);
    }
}

#[test]
fn the_same_seed_has_the_same_effects() {
    let habits = Habits { cancels: 0.1, poison: 0.01, outages: 3, ..Habits::default() };
    assert_eq!(World::run(habits.clone(), 42), World::run(habits, 42));
}

#[test]
fn a_fixed_delay_gathers_company() {
    let lone = |max_queue_delay| {
        let habits = Habits {
            instances: 4,
            shapes: 1,
            max_rows: 1,
            mean_gap: Span::from_millis(3),
            max_queue_delay,
            ..Habits::default()
        };
        World::run(habits, 1)
    };
    let (without, with) = (lone(None), lone(Some(Span::from_millis(20))));
    assert_eq!((without.answered, with.answered), (10_000, 10_000));
    assert!(with.batches * 2 < without.batches, "{} against {}", with.batches, without.batches);
}

#[test]
fn instances_that_work_on_all_at_once_get_more_slots() {
    let crowd = |learn_slots| Habits {
        instances: 1,
        shapes: 1,
        max_rows: 1,
        // Three times what one batch of 32 after the other can bear.
        mean_gap: Span::from_nanos(270_000),
        queue_rows: 512,
        learn_slots,
        ..Habits::default()
    };
    let [one] = &worlds(0..1, |_| crowd(false))[..] else { unreachable!("one seed, one world") };
    let [many] = &worlds(0..1, |_| crowd(true))[..] else { unreachable!("one seed, one world") };
    assert!(one.refused > 5_000, "{one:?}");
    assert!(many.refused * 2 < one.refused, "{many:?}");
}

#[test]
fn a_call_is_not_cut_because_smaller_batches_pay() {
    for report in worlds(0..3, |_| Habits {
        instances: 1,
        shapes: 1,
        max_rows: 8,
        mean_gap: Span::from_millis(30),
        service: (Span::ZERO, Span::from_millis(2)),
        calls: 2_000,
        ..Habits::default()
    }) {
        assert_eq!(report.answered, 2_000);
        assert!(report.batches <= 2_000, "{} batches for 2000 calls", report.batches);
    }
}
