//! Work buffers that a thread keeps from one call to the next.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::real::Real;

/// Buffers that a thread keeps at most.
const KEPT: usize = 16;
/// Their bytes at most: one image of unusual size is not kept for ever.
const KEPT_BYTES: usize = 64 << 20;

thread_local! {
    static FREE: RefCell<Vec<(usize, Box<dyn Any>)>> = const { RefCell::new(Vec::new()) };
}

/// A slice of elements that goes back to the thread when dropped.
#[derive(Debug)]
pub(crate) struct Scratch<T: Real>(Vec<T>);

impl<T: Real> Scratch<T> {
    /// So many zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut values = Self::take(len);
        values.clear();
        values.resize(len, T::ZERO);
        Self(values)
    }

    /// So many elements of any value: whoever takes them writes before reading.
    pub(crate) fn stale(len: usize) -> Self {
        let mut values = Self::take(len);
        values.truncate(len);
        values.resize(len, T::ZERO);
        Self(values)
    }

    /// The smallest kept buffer that is large enough, else the largest, which grows.
    fn take(len: usize) -> Vec<T> {
        FREE.with_borrow_mut(|free| {
            let of = |(_, buffer): &(usize, Box<dyn Any>)| buffer.downcast_ref::<Vec<T>>().map(Vec::capacity);
            let fits = |&(_, capacity): &(usize, usize)| capacity >= len;
            let capacities = || free.iter().enumerate().filter_map(|(i, buffer)| Some((i, of(buffer)?)));
            let best = capacities().filter(fits).min_by_key(|&(_, capacity)| capacity);
            let best = best.or_else(|| capacities().max_by_key(|&(_, capacity)| capacity));
            let buffer = best.map(|(i, _)| free.swap_remove(i).1);
            buffer.and_then(|buffer| buffer.downcast().ok()).map(|buffer| *buffer).unwrap_or_default()
        })
    }
}

impl<T: Real> Drop for Scratch<T> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        let bytes = values.capacity() * size_of::<T>();
        // A thread that is ending has nothing to keep it in.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
                && bytes + free.iter().map(|(bytes, _)| bytes).sum::<usize>() <= KEPT_BYTES
            {
                free.push((bytes, Box::new(values)));
            }
        });
    }
}

impl<T: Real> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Real> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_zeroed_and_no_larger_than_asked() {
        let mut first = Scratch::<f32>::zeros(100);
        first.fill(3.0);
        let at = first.as_ptr();
        drop(first);
        let other = Scratch::<f64>::zeros(10);
        let again = Scratch::<f32>::zeros(50);
        assert_eq!((again.as_ptr(), &again[..], other.len()), (at, &[0.0; 50][..], 10));
    }
}
