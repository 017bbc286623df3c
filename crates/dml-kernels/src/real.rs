//! The element types of the CPU kernels, with the transcendental functions written so that loops over them
//! vectorize: no branches, no calls, no table.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Device, Result, Shape, Tensor, bail};

/// An element type the CPU kernels work on: `f32` or `f64`.
pub trait Real:
    Copy
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// The spacing of numbers at 1.
    const EPSILON: f64;
    /// Steps below this are near: power series of seven terms are exact to a rounding there.
    const NEAR: f64;
    /// |x|.
    fn abs(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// The larger; the other one where one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; the other one where one is NaN.
    fn min(self, other: Self) -> Self;
    /// Whether it is NaN.
    fn is_nan(self) -> bool;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// x to the power e.
    fn powf(self, e: Self) -> Self;
    /// The nearest value to an f64.
    fn from_f64(value: f64) -> Self;
    /// A whole number from 0 to 255 as a byte.
    fn to_byte(self) -> u8;
    /// The value as an f64.
    fn to_f64(self) -> f64;
    /// eˣ; NaN for NaN, 0 below the smallest normal number.
    fn exp_fast(self) -> Self;
    /// log(1 + t) for t in `[0, 1]`.
    fn ln_1p_unit(self) -> Self;
    /// The elements of a storage of this type.
    fn slice(storage: &CpuStorage) -> Result<&[Self]>;
    /// The elements of a storage of this type, to write.
    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
    /// A storage of this type.
    fn storage(values: Vec<Self>) -> CpuStorage;
    /// A CPU tensor of this type.
    fn tensor(values: Vec<Self>, shape: &Shape) -> Result<Tensor>;
}

/// The parts of [`Real`] that read alike for both types.
macro_rules! plain_arithmetic {
    ($t:ident, $variant:ident) => {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NEG_INFINITY: Self = $t::NEG_INFINITY;
        #[allow(clippy::unnecessary_cast, reason = "for f64 it is none")]
        const EPSILON: f64 = $t::EPSILON as f64;
        #[inline(always)]
        fn abs(self) -> Self {
            $t::abs(self)
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            $t::sqrt(self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            $t::max(self, other)
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            $t::min(self, other)
        }
        #[inline(always)]
        fn is_nan(self) -> bool {
            $t::is_nan(self)
        }
        #[inline(always)]
        fn ln(self) -> Self {
            $t::ln(self)
        }
        #[inline(always)]
        fn powf(self, e: Self) -> Self {
            $t::powf(self, e)
        }
        #[inline(always)]
        fn from_f64(value: f64) -> Self {
            value as $t
        }
        #[inline(always)]
        fn to_byte(self) -> u8 {
            // Adding the number from which on only whole ones exist puts it into the low bits; a cast that saturates
            // does not vectorize.
            (self + (1u64 << ($t::MANTISSA_DIGITS - 1)) as $t).to_bits() as u8
        }
        #[inline(always)]
        #[allow(clippy::unnecessary_cast, reason = "for f64 it is none")]
        fn to_f64(self) -> f64 {
            self as f64
        }
        fn slice(storage: &CpuStorage) -> Result<&[Self]> {
            match storage {
                CpuStorage::$variant(values) => Ok(values),
                other => bail!("expected {} storage, got {:?}", stringify!($t), BackendStorage::dtype(other)),
            }
        }
        fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
            match storage {
                CpuStorage::$variant(values) => Ok(values),
                other => bail!("expected {} storage, got {:?}", stringify!($t), BackendStorage::dtype(other)),
            }
        }
        fn storage(values: Vec<Self>) -> CpuStorage {
            CpuStorage::$variant(values)
        }
        fn tensor(values: Vec<Self>, shape: &Shape) -> Result<Tensor> {
            Tensor::from_vec(values, shape, &Device::Cpu)
        }
    };
}

impl Real for f32 {
    plain_arithmetic!(f32, F32);
    const NEAR: f64 = 0.25;

    /// Cody–Waite reduction to r = x − n·ln 2, |r| ≤ ln 2 / 2, and a Taylor polynomial of degree 7, whose
    /// remainder there, r⁸/8! ≤ 6e-9, is a tenth of a rounding.
    #[inline(always)]
    fn exp_fast(self) -> Self {
        const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to an integer in the low bits
        const LN2_HI: f32 = 0.693_359_4; // nine bits: n·LN2_HI is exact
        const LN2_LO: f32 = -2.121_944_4e-4;
        const LOWEST: f32 = -87.336_54; // ln of the smallest normal number
        const HIGHEST: f32 = 88.722_83; // ln of the largest number
        #[expect(clippy::manual_clamp, reason = "`clamp` keeps NaN and so does not vectorize")]
        let x = self.max(LOWEST).min(HIGHEST);
        let t = x * std::f32::consts::LOG2_E + ROUND;
        let n = t - ROUND;
        let r = (x - n * LN2_HI) - n * LN2_LO;
        let p = 1.0 / 5040.0;
        let p = p * r + 1.0 / 720.0;
        let p = p * r + 1.0 / 120.0;
        let p = p * r + 1.0 / 24.0;
        let p = p * r + 1.0 / 6.0;
        let p = p * r + 0.5;
        let p = p * r + 1.0;
        let p = p * r + 1.0;
        // 2ⁿ in two factors, because n = 128 and n = −127 have none of their own.
        let n = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        let value = p * power(n >> 1) * power(n.wrapping_sub(n >> 1));
        let value = if self < LOWEST { 0.0 } else { value };
        let value = if self > HIGHEST { f32::INFINITY } else { value };
        if f32::is_nan(self) { self } else { value }
    }

    /// log(1 + t) = 2·artanh(s), s = t/(2 + t) ≤ 1/3: an odd series, cut where s¹⁵ falls below a rounding.
    #[inline(always)]
    fn ln_1p_unit(self) -> Self {
        let s = self / (2.0 + self);
        let q = s * s;
        let p = 1.0 / 13.0;
        let p = p * q + 1.0 / 11.0;
        let p = p * q + 1.0 / 9.0;
        let p = p * q + 1.0 / 7.0;
        let p = p * q + 1.0 / 5.0;
        let p = p * q + 1.0 / 3.0;
        let p = p * q + 1.0;
        2.0 * s * p
    }
}

impl Real for f64 {
    plain_arithmetic!(f64, F64);
    const NEAR: f64 = 0.02;

    #[inline(always)]
    fn exp_fast(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn ln_1p_unit(self) -> Self {
        self.ln_1p()
    }
}

/// Runs `body` with `$t` standing for the tensor's element type, f32 or f64.
macro_rules! with_real {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => candle_core::bail!("{}: element type {other:?} is not f32 or f64", $op),
        }
    };
}
pub(crate) use with_real;

pub(crate) use crate::dispatch::on_cpu;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_fit_bytes() {
        for byte in 0..=255u8 {
            assert_eq!((f32::from(byte).to_byte(), f64::from(byte).to_byte()), (byte, byte));
        }
    }

    /// Roundings of the result; the polynomials are exact to a fraction of one.
    const ULPS: f32 = 3.0;

    #[test]
    fn exp_agrees_with_the_library_everywhere() {
        let mut x = -87.3f32;
        while x < 88.72 {
            let (got, want) = (x.exp_fast(), x.exp());
            assert!((got - want).abs() <= ULPS * f32::EPSILON * want, "exp({x}) = {got}, library {want}");
            x += 0.0137;
        }
        assert_eq!((-1e4f32).exp_fast(), 0.0);
        assert_eq!(f32::NEG_INFINITY.exp_fast(), 0.0);
        assert_eq!(1e4f32.exp_fast(), f32::INFINITY);
        assert_eq!(0f32.exp_fast(), 1.0);
        assert!(f32::NAN.exp_fast().is_nan());
    }

    #[test]
    fn ln_1p_agrees_with_the_library_on_the_unit_interval() {
        for i in 0..=100_000 {
            let t = i as f32 / 100_000.0;
            let (got, want) = (t.ln_1p_unit(), t.ln_1p());
            assert!((got - want).abs() <= ULPS * f32::EPSILON * want, "ln_1p({t}) = {got}, library {want}");
        }
        assert_eq!(1e-30f32.ln_1p_unit(), 1e-30);
    }
}
