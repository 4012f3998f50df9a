use super::*;

const INSTANCE: InstanceId = InstanceId(0);

fn at(millis: u64) -> Instant {
    Instant::default() + Span::from_millis(millis)
}

/// Teaches the policy a curve that is worth a table.
fn teach(policy: &mut Adaptive, key: &ShapeKey) {
    for (slot, rows) in (0..).zip([1, 8, 16, 17, 24, 32, 1, 8, 16, 17, 24, 32]) {
        let departure = Departure {
            slot: SlotId(slot),
            instance: INSTANCE,
            key: Some(key),
            rows,
            telling: true,
        };
        policy.sent(at(0), &departure);
        policy.back(at(if rows > 16 { 36 } else { 20 }), SlotId(slot), true);
    }
}

/// What is sent ahead of the end of another batch does not tell what its size costs: it would be looked
/// at again and again.
#[test]
fn a_size_is_looked_at_by_a_batch_that_tells() {
    let mut policy = Adaptive::new(1);
    let key = ShapeKey::new(b"a");
    teach(&mut policy, &key);
    let mut cause = |slot: u64, ahead: bool| {
        let server = Server { id: INSTANCE, slots: 1, free: 1, cap: 32, ahead, last_sent: 0 };
        let view = View {
            now: at(100),
            key: &key,
            waiting_rows: 100,
            all_waiting_rows: 100,
            mixed: false,
            oldest: at(100),
            deadline: at(10_000),
            servers: &[server],
            objective: None,
            draining: false,
        };
        let Decision::Send { rows, cause, .. } = policy.decide(&view) else {
            panic!("there is a backlog");
        };
        let departure = Departure {
            slot: SlotId(slot),
            instance: INSTANCE,
            key: Some(&key),
            rows,
            telling: !ahead,
        };
        policy.sent(at(100), &departure);
        policy.back(at(120), SlotId(slot), true);
        cause
    };
    // The seventeenth batch is due, which is sent ahead.
    let ahead: Vec<Cause> = (12..20).map(|slot| cause(slot, true)).collect();
    assert!(!ahead.contains(&Cause::Explore), "{ahead:?}");
    assert_eq!(cause(20, false), Cause::Explore);
    assert_ne!(cause(21, false), Cause::Explore);
}

#[test]
fn every_kind_of_batch_gets_its_table() {
    let mut policy = Adaptive::new(1);
    let keys = [ShapeKey::new(b"a"), ShapeKey::new(b"b")];
    let server = Server { id: INSTANCE, slots: 1, free: 1, cap: 32, ahead: false, last_sent: 0 };
    for key in &keys {
        teach(&mut policy, key);
    }
    for key in &keys {
        policy.decide(&View {
            now: at(100),
            key,
            waiting_rows: 1,
            all_waiting_rows: 2,
            mixed: false,
            oldest: at(100),
            deadline: at(10_000),
            servers: &[server],
            objective: None,
            draining: false,
        });
    }
    assert!(policy.calculation().is_some() && policy.calculation().is_some());
}
