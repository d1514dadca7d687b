//! Several futures at once, on the caller's own thread.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs all of them together and returns their results in the same order.
///
/// Unlike tokio's `JoinSet` it takes futures that borrow. Each wake polls all that are not done:
/// meant for tens of them, as there are hosts or connections.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::runtime::runtime;

    #[test]
    fn all_wait_at_once_and_keep_their_order() {
        let begun = Instant::now();
        let slow_first = [200, 150, 100].map(|millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            millis
        });
        assert_eq!(runtime().unwrap().block_on(join_all(slow_first)), [200, 150, 100]);
        assert!(begun.elapsed() < Duration::from_millis(430), "one after the other");
    }
}
