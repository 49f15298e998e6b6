//! The dynamic map of 8 bits: `bitsandbytes.functional.create_dynamic_map` (Dettmers 2016, arXiv 1511.04561).
//!
//! In each decade from 10⁻⁷ to 1, twice as many values as in the one below: the means of neighbouring points that divide
//! [0.1, 1] evenly; and 0 and 1.

/// Decades that the map spans.
const DECADES: usize = 7;

/// Returns the values of all codes, ascending.
pub(super) fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let points = if signed { (1 << decade) + 1 } else { (1 << (decade + 1)) + 1 };
        let scale = 10f64.powi(decade as i32 + 1 - DECADES as i32) as f32;
        for i in 0..points - 1 {
            let value = scale * ((point(i, points) + point(i + 1, points)) / 2.0);
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    // Two values and 2·(1 + 2 + … + 64) or 2 + 4 + … + 128 more: 256.
    let mut map = [0.0; 256];
    map.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    map
}

/// Point `i` of `torch.linspace(0.1, 1, count)`, which counts from the nearer end.
fn point(i: usize, count: usize) -> f32 {
    let step = (1.0f32 - 0.1) / (count - 1) as f32;
    if i < count / 2 { 0.1 + step * i as f32 } else { 1.0 - step * (count - 1 - i) as f32 }
}

/// Returns the code of the value nearest to `x`; of two that are equally near, the lower one.
pub(super) fn nearest(map: &[f32; 256], x: f32) -> u8 {
    let above = map.partition_point(|value| *value < x).min(255);
    let below = above.saturating_sub(1);
    if x - map[below] <= map[above] - x { below as u8 } else { above as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_own_code_and_zero_is_exact() {
        for signed in [true, false] {
            let map = dynamic_map(signed);
            assert!(map.windows(2).all(|pair| pair[0] < pair[1]), "{map:?}");
            assert!(map.iter().enumerate().all(|(code, value)| usize::from(nearest(&map, *value)) == code));
            assert_eq!((map[if signed { 127 } else { 0 }], map[255]), (0.0, 1.0));
            let between = |x: f32| map[usize::from(nearest(&map, x))];
            assert_eq!((between(2.0), between(-2.0)), (1.0, map[0]));
        }
    }
}
