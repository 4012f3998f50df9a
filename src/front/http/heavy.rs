//! Work that takes a thread for long.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes of JSON tensors or items whose reading or writing takes about a millisecond.
const HEAVY_BYTES: usize = 1 << 20;

/// Does `work` on about `bytes` bytes; when they are many, other tasks of this thread are moved to
/// another one before.
pub(super) fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    // A runtime of one thread has no other to move them to.
    let has_others = || Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if bytes >= HEAVY_BYTES && has_others() { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn another_task_goes_on_beside_heavy_work() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let ours = tokio::spawn(async move {
            // The only worker is busy with us: this runs only when it is moved away.
            let other = tokio::spawn(async move { sender.send(()) });
            let bound = std::time::Duration::from_secs(10);
            let heard = heavy(HEAVY_BYTES, || receiver.recv_timeout(bound));
            (heard, other.await)
        });
        let (heard, other) = ours.await.unwrap();
        assert!(heard.is_ok() && other.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_it_as_it_is() {
        assert_eq!(heavy(HEAVY_BYTES, || 7), 7);
    }
}
