//! Shannon entropy of bytes: how many bits a byte carries if each is coded for itself.

/// Shannon entropy of `data` in bits per byte, from 0 (one value only; also for no data) to 8
/// (all values equally often): `−Σ p·log2 p` over the share `p` of each byte value.
pub fn entropy(data: &[u8]) -> f64 {
    if data.is_empty() {
        return 0.0;
    }
    let total = data.len() as f64;
    let weighted: f64 = histogram(data)
        .into_iter()
        .filter(|count| *count > 0)
        .map(|count| count as f64 * (count as f64).log2())
        .sum();
    // −Σ c/n·log2(c/n) = log2 n − Σ c·log2 c / n. Rounding may leave a negative zero.
    (total.log2() - weighted / total).max(0.0)
}

/// How often each byte value occurs.
pub(crate) fn histogram(data: &[u8]) -> [u32; 256] {
    // Four tables, so that a run of one value does not wait for its own last store.
    let mut tables = [[0u32; 256]; 4];
    let (quads, rest) = data.as_chunks::<4>();
    for quad in quads {
        for (table, byte) in tables.iter_mut().zip(quad) {
            table[*byte as usize] += 1;
        }
    }
    for byte in rest {
        tables[0][*byte as usize] += 1;
    }
    std::array::from_fn(|value| tables.iter().map(|table| table[value]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions_have_their_known_entropy() {
        assert_eq!(entropy(&[]), 0.0);
        assert_eq!(entropy(&[9; 4096]), 0.0);
        assert_eq!(entropy(&[0, 1]), 1.0);
        let all: Vec<u8> = (0..4096).map(|at| at as u8).collect();
        assert_eq!(entropy(&all), 8.0);
        let skewed: Vec<u8> = (0..4096).map(|at| (at % 4 == 0) as u8).collect();
        assert!((entropy(&skewed) - 0.811_278).abs() < 1e-6);
    }
}
