//! Work side by side: a bound on how much, the first error ends the rest, a panic is passed on.

use tokio::task::{JoinSet, spawn_blocking};

use crate::Error;

/// Runs at most `limit` futures at a time, starting them in order; ends them all at the first error.
pub(crate) async fn bounded<T, F>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
) -> Result<Vec<T>, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut results = Vec::new();
    for future in futures {
        if running.len() >= limit.max(1) {
            results.extend(next(&mut running).await?);
        }
        running.spawn(future);
    }
    results.extend(joined(running).await?);
    Ok(results)
}

pub(crate) async fn joined<T: 'static>(
    mut running: JoinSet<Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let mut results = Vec::new();
    while let Some(result) = next(&mut running).await? {
        results.push(result);
    }
    Ok(results)
}

async fn next<T: 'static>(running: &mut JoinSet<Result<T, Error>>) -> Result<Option<T>, Error> {
    match running.join_next().await {
        None => Ok(None),
        Some(Ok(result)) => result.map(Some),
        // Nothing cancels these tasks while they are waited for: this is a panic, passed on.
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
