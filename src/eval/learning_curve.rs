//! Held-out error against the number of training pairs N: the curve a + b/√N, and whether the data support it.
//!
//! Bounds on the error of preference learning fall as 1/√N. A fit alone shows nothing, since every falling curve has one. So
//! the fit is tested three ways: the slope b against 0, what is left over against the errors' own size (χ²), and the exponent
//! ½ against all others (the profile of χ² over c in a + b·N⁻ᶜ).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};

/// An error that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Number of training pairs N.
    pub n: f64,
    /// The held-out error.
    pub error: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// A coefficient and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coefficient {
    /// The estimate.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Whether the data support a + b/√N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// The error falls, the curve fits, and other exponents than those near ½ do not.
    Supported,
    /// The error falls and the curve fits, but so do curves of very different exponents.
    Compatible,
    /// No slope is found: the error may not depend on N at all.
    NoSlope,
    /// The error grows with N: the interval of b is below 0.
    Rises,
    /// The points lie further from every such curve, whatever its exponent, than their errors explain.
    DoesNotFit,
    /// The curve fits worse than one with another exponent.
    OtherExponent,
    /// There are fewer than four different N.
    TooFewPoints,
}

impl Support {
    /// The finding in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Supported => "the data support a + b/sqrt(N)",
            Self::Compatible => {
                "the data agree with a + b/sqrt(N), and with other exponents as well: more values of N would tell"
            }
            Self::NoSlope => "the data do not show that the error depends on N",
            Self::Rises => "the error grows with N, which a + b/sqrt(N) with b > 0 does not describe",
            Self::DoesNotFit => {
                "the data contradict a + b/sqrt(N): the points lie further from it than their errors explain"
            }
            Self::OtherExponent => "the data contradict a + b/sqrt(N): another exponent fits better",
            Self::TooFewPoints => "there are too few values of N (fewer than four) to tell",
        }
    }
}

/// The fitted curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The error that remains as N grows.
    pub a: Coefficient,
    /// The slope over 1/√N.
    pub b: Coefficient,
    /// Sum of squared distances in standard errors.
    pub chi_squared: f64,
    /// Points minus two.
    pub degrees_of_freedom: usize,
    /// The probability of a greater χ² if the curve is true; `None` without degrees of freedom.
    pub p_value: Option<f64>,
    /// The exponent c of a + b·N⁻ᶜ that fits best, and the range that the data do not contradict; its ends are those of the
    /// range that is searched, where the data allow more. `None` with fewer than four different N.
    pub exponent: Option<Coefficient>,
    /// Whether the standard errors come from runs with equal N.
    pub spread_from_repeats: bool,
    /// Whether the data support the curve.
    pub support: Support,
}

/// The range of exponents that is searched.
const EXPONENTS: (f64, f64) = (0.05, 3.0);
const EXPONENT_STEPS: usize = 295;

/// Half the width of a 95 % interval in standard errors.
const Z: f64 = 1.959_963_984_540_054;

/// χ² of one degree of freedom that is exceeded in 5 % of all samples.
const CHI_ONE: f64 = 3.841_458_820_694_124;

/// An interval of the exponent that is wider than this says little about it.
const WIDE: f64 = 1.0;

/// Fits a + b/√N by weighted least squares. Where runs have the same N, their spread replaces the standard errors if it is
/// greater: runs differ by more than the held-out pairs that they are measured on.
///
/// # Errors
/// If there are fewer than two different N, or a value is not possible.
pub fn fit(points: &[Measured]) -> Result<Fit> {
    for Measured { n, error, standard_error } in points {
        if !(*n >= 1.0
            && n.is_finite()
            && error.is_finite()
            && *standard_error > 0.0
            && standard_error.is_finite())
        {
            return Err(Error::Data(format!(
                "a point of the learning curve has N = {n}, error {error} and standard error {standard_error}; N must be at \
                 least 1, the error a number, and its standard error above 0"
            )));
        }
    }
    let sizes = different(points);
    if sizes < 2 {
        return Err(Error::Data(format!(
            "a learning curve needs at least two different numbers of pairs, found {sizes}; add runs or points of other sizes"
        )));
    }
    let (points, spread_from_repeats) = with_spread(points);
    let Line { a, b, chi_squared } = line(&points, 0.5);
    let degrees_of_freedom = points.len() - 2;
    let p_value = (degrees_of_freedom > 0).then(|| chi_squared_tail(chi_squared, degrees_of_freedom));
    let best = (sizes >= 4).then(|| exponent(&points));
    let support = match best {
        None => Support::TooFewPoints,
        Some(_) if b.high < 0.0 => Support::Rises,
        Some(_) if b.low <= 0.0 => Support::NoSlope,
        Some((_, least)) if chi_squared_tail(least, points.len() - 3) < 0.05 => Support::DoesNotFit,
        Some((c, _)) if c.low > 0.5 || c.high < 0.5 => Support::OtherExponent,
        Some((c, _)) if c.high - c.low > WIDE => Support::Compatible,
        Some(_) => Support::Supported,
    };
    let exponent = best.map(|(exponent, _)| exponent);
    Ok(Fit { a, b, chi_squared, degrees_of_freedom, p_value, exponent, spread_from_repeats, support })
}

impl Fit {
    /// The curve at N.
    pub fn at(&self, n: f64) -> f64 {
        self.a.value + self.b.value / n.sqrt()
    }
}

fn different(points: &[Measured]) -> usize {
    points.iter().map(|point| point.n.to_bits()).collect::<std::collections::BTreeSet<_>>().len()
}

/// Replaces standard errors by the pooled deviation of runs with equal N, if there are any and it is greater.
fn with_spread(points: &[Measured]) -> (Vec<Measured>, bool) {
    let mut groups: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    points.iter().for_each(|point| groups.entry(point.n.to_bits()).or_default().push(point.error));
    let (mut squares, mut freedom) = (0.0, 0);
    for errors in groups.values() {
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        squares += errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>();
        freedom += errors.len() - 1;
    }
    let pooled = if freedom > 0 { (squares / freedom as f64).sqrt() } else { 0.0 };
    let wider = |point: &Measured| Measured { standard_error: point.standard_error.max(pooled), ..*point };
    let used = points.iter().any(|point| pooled > point.standard_error);
    (points.iter().map(wider).collect(), used)
}

struct Line {
    a: Coefficient,
    b: Coefficient,
    chi_squared: f64,
}

/// Weighted least squares of error = a + b·N⁻ᶜ for a given c.
fn line(points: &[Measured], c: f64) -> Line {
    // N⁻ᶜ relative to that of the smallest N, so that large c do not vanish.
    let least = points.iter().map(|point| point.n).fold(f64::INFINITY, f64::min);
    let rows =
        points.iter().map(|point| ((point.n / least).powf(-c), point.error, point.standard_error.powi(-2)));
    let (w, wx) = rows.clone().fold((0.0, 0.0), |sum, (x, _, w)| (sum.0 + w, sum.1 + w * x));
    let wy: f64 = rows.clone().map(|(_, y, w)| w * y).sum();
    let (mean_x, mean_y) = (wx / w, wy / w);
    let sxx: f64 = rows.clone().map(|(x, _, w)| w * (x - mean_x).powi(2)).sum();
    let sxy: f64 = rows.clone().map(|(x, y, w)| w * (x - mean_x) * (y - mean_y)).sum();
    let slope = sxy / sxx;
    let a = mean_y - slope * mean_x;
    let chi_squared = rows.map(|(x, y, w)| w * (y - a - slope * x).powi(2)).sum();
    let interval =
        |value: f64, error: f64| Coefficient { value, low: value - Z * error, high: value + Z * error };
    let scale = least.powf(c);
    Line {
        a: interval(a, (1.0 / w + mean_x * mean_x / sxx).sqrt()),
        b: interval(slope * scale, scale / sxx.sqrt()),
        chi_squared,
    }
}

/// The exponent that fits best, those whose χ² is not greater than its by more than chance explains, and its χ².
fn exponent(points: &[Measured]) -> (Coefficient, f64) {
    let (low, high) = EXPONENTS;
    let at = |i: usize| low + (high - low) * i as f64 / EXPONENT_STEPS as f64;
    let profile: Vec<(f64, f64)> =
        (0..=EXPONENT_STEPS).map(|i| (at(i), line(points, at(i)).chi_squared)).collect();
    let best = profile.iter().copied().fold((0.5, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a });
    let allowed = || profile.iter().filter(|(_, chi)| *chi <= best.1 + CHI_ONE).map(|(c, _)| *c);
    let low = allowed().fold(f64::INFINITY, f64::min);
    let high = allowed().fold(f64::NEG_INFINITY, f64::max);
    (Coefficient { value: best.0, low, high }, best.1)
}

/// The probability that χ² with `k` degrees of freedom exceeds `x`: the regularised incomplete gamma function Q(k/2, x/2), by
/// its series or its continued fraction (Press et al., Numerical Recipes, 6.2).
fn chi_squared_tail(x: f64, k: usize) -> f64 {
    let (a, x) = (k as f64 / 2.0, x / 2.0);
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - libm::lgamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in 1..1000 {
            term *= x / (a + f64::from(n));
            sum += term;
            if term < sum * 1e-15 {
                break;
            }
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    // Lentz's method.
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / f64::MIN_POSITIVE, 1.0 / b);
    let mut h = d;
    for i in 1..1000 {
        let an = -f64::from(i) * (f64::from(i) - a);
        b += 2.0;
        d = 1.0 / (an * d + b);
        c = b + an / c;
        let step = c * d;
        h *= step;
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    const SIZES: [f64; 6] = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0];

    /// Points of a curve with normal errors.
    fn points(curve: impl Fn(f64) -> f64, error: f64, seed: u64) -> Vec<Measured> {
        let stream = Stream::new(seed, "errors");
        let normal = |i: usize| {
            let u = |k: usize| f64::from(stream.uniform(k as u64)).max(1e-7);
            (-2.0 * u(2 * i).ln()).sqrt() * (std::f64::consts::TAU * u(2 * i + 1)).cos()
        };
        let at = |(i, n): (usize, &f64)| Measured {
            n: *n,
            error: curve(*n) + error * normal(i),
            standard_error: error,
        };
        SIZES.iter().enumerate().map(at).collect()
    }

    #[test]
    fn exact_points_give_the_curve_back() {
        let exact: Vec<Measured> = SIZES
            .iter()
            .map(|n| Measured { n: *n, error: 0.1 + 2.0 / n.sqrt(), standard_error: 0.002 })
            .collect();
        let fit = fit(&exact).unwrap();
        assert!((fit.a.value - 0.1).abs() < 1e-9 && (fit.b.value - 2.0).abs() < 1e-9, "{fit:?}");
        assert!(fit.chi_squared < 1e-9 && fit.p_value.unwrap() > 0.999 && fit.support == Support::Supported);
        assert!((fit.exponent.unwrap().value - 0.5).abs() < 1e-9 && (fit.at(400.0) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn intervals_cover_the_truth_in_about_95_of_100_samples() {
        let covers = |seed| {
            let fit = fit(&points(|n| 0.1 + 1.0 / n.sqrt(), 0.01, seed)).unwrap();
            [(fit.a, 0.1), (fit.b, 1.0)].map(|(it, truth)| usize::from(it.low <= truth && truth <= it.high))
        };
        let covered = (0..400).map(covers).fold([0, 0], |sum, it| [sum[0] + it[0], sum[1] + it[1]]);
        // 400 · 0.95 = 380, with a standard deviation of 4.4.
        assert!(covered.iter().all(|n| (366..=394).contains(n)), "{covered:?}");
    }

    #[test]
    fn what_the_data_do_not_support_is_said() {
        let support = |curve: fn(f64) -> f64, error| fit(&points(curve, error, 7)).unwrap().support;
        assert_eq!(support(|n| 0.1 + 2.0 / n.sqrt(), 0.002), Support::Supported);
        assert_eq!(support(|n| 0.1 + 1.0 / n.sqrt(), 0.015), Support::Compatible);
        assert_eq!(support(|_| 0.3, 0.01), Support::NoSlope);
        assert_eq!(support(|n| 0.5 - n / 3200.0, 0.02), Support::DoesNotFit);
        assert_eq!(support(|n| 0.2 + n.powf(-0.1), 0.002), Support::OtherExponent);
        assert_eq!(support(|n| 0.1 + 200.0 / (n * n), 0.001), Support::OtherExponent);
        let mut jagged = points(|n| 0.1 + 2.0 / n.sqrt(), 0.002, 7);
        (0..6).for_each(|i| jagged[i].error += if i % 2 == 0 { 0.01 } else { -0.01 });
        assert_eq!(fit(&jagged).unwrap().support, Support::DoesNotFit);
        let few = fit(&points(|n| 0.1 + 2.0 / n.sqrt(), 0.002, 7)[..3]).unwrap();
        assert_eq!((few.support, few.exponent), (Support::TooFewPoints, None));
    }

    #[test]
    fn runs_of_equal_size_widen_the_errors() {
        let at = |n, error| Measured { n, error, standard_error: 0.001 };
        let found = fit(&[at(100.0, 0.30), at(100.0, 0.34), at(400.0, 0.20), at(400.0, 0.16)]).unwrap();
        // The pooled deviation is √(2·0.0008 / 2) = 0.028; the slope's error √(s² / Σ(x − x̄)²), Σ = 4·0.025².
        assert!(found.spread_from_repeats);
        let half = Z * 0.0008f64.sqrt() / 0.05;
        assert!((found.b.value - 2.8).abs() < 1e-9 && (found.b.high - 2.8 - half).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn impossible_points_are_refused() {
        let at = |n, error, standard_error| Measured { n, error, standard_error };
        for wrong in [at(0.0, 0.1, 0.1), at(10.0, f64::NAN, 0.1), at(10.0, 0.1, 0.0)] {
            assert!(fit(&[wrong, at(20.0, 0.1, 0.1)]).is_err());
        }
        assert!(fit(&[at(10.0, 0.1, 0.1), at(10.0, 0.2, 0.1)]).unwrap_err().to_string().contains("found 1"));
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        // scipy.stats.chi2.sf
        for (x, k, expected) in [
            (3.841_458_820_694_124, 1, 0.05),
            (1.0, 1, 0.317_310_507_862_911),
            (9.487_729_036_781_154, 4, 0.05),
            (2.0, 4, 0.735_758_882_342_885),
            (50.0, 4, 3.610_865_404_890_645e-10),
        ] {
            let found = chi_squared_tail(x, k);
            assert!((found - expected).abs() < 1e-9 * expected.max(1e-3), "{x} {k}: {found}");
        }
        assert_eq!(chi_squared_tail(0.0, 3), 1.0);
    }
}
