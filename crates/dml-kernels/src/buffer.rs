//! Buffers that outlive a call: taken by the threads of a forward pass, given back when its graph is dropped, and
//! taken again by the next without being allocated or cleared.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use crate::real::Real;

/// Bytes that lie unused at most.
const KEPT_BYTES: usize = 64 << 20;
/// Smaller ones are not worth a lock.
const LEAST: usize = 1024;

static FREE: Mutex<Vec<(usize, Box<dyn Any + Send>)>> = Mutex::new(Vec::new());

/// A slice that goes back to the process when dropped.
#[derive(Debug)]
pub(crate) struct Buffer<T: Real>(Vec<T>);

impl<T: Real> Buffer<T> {
    /// So many elements of any value: whoever takes them writes before reading.
    pub(crate) fn stale(len: usize) -> Self {
        let mut values = if len < LEAST { Vec::new() } else { Self::take(len) };
        values.truncate(len);
        values.resize(len, T::ZERO);
        Self(values)
    }

    /// A kept buffer of at least `len` elements and at most twice as many, the smallest.
    fn take(len: usize) -> Vec<T> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let lengths =
            free.iter().enumerate().filter_map(|(i, (_, b))| Some((i, b.downcast_ref::<Vec<T>>()?.len())));
        let fitting = lengths.filter(|&(_, held)| (len..=2 * len).contains(&held));
        let Some((at, _)) = fitting.min_by_key(|&(_, held)| held) else { return Vec::new() };
        let (_, buffer) = free.swap_remove(at);
        buffer.downcast().map_or_else(|_| Vec::new(), |buffer| *buffer)
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if values.len() < LEAST {
            return;
        }
        let bytes = values.capacity() * size_of::<T>();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = free.iter().map(|(bytes, _)| bytes).sum();
        if held + bytes <= KEPT_BYTES {
            free.push((bytes, Box::new(values)));
        }
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_taken_again_by_another_thread() {
        // A length that no other test of this process asks for.
        const LEN: usize = 123_457;
        let mut first = Buffer::<f64>::stale(LEN);
        first.fill(2.0);
        let at = first.as_ptr() as usize;
        drop(first);
        let taken = std::thread::spawn(move || {
            let again = Buffer::<f64>::stale(LEN - 3);
            (again.as_ptr() as usize, again.len(), again[5])
        });
        assert_eq!(taken.join().unwrap(), (at, LEN - 3, 2.0));
        assert_eq!(Buffer::<f32>::stale(LEN).len(), LEN);
    }
}
