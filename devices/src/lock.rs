//! Locks whose holder may have panicked: what they guard is whole after every step, so others go on with it.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
