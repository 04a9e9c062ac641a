package bench

import "slices"

// Sample is one figure, measured in one round.
type Sample struct {
	Round int     `json:"round"`
	Value float64 `json:"value"`
}

// Series are the samples of one figure.
type Series []Sample

// Median is the middle of the values, or 0 of none.
func (s Series) Median() float64 {
	return Quantile(s.values(), 0.5)
}

// Max is the largest value, or 0 of none.
func (s Series) Max() float64 { return Quantile(s.values(), 1) }

// Best is the largest value, or the smallest if less is better; 0 of none.
func (s Series) Best(less bool) float64 {
	if less {
		return Quantile(s.values(), 0)
	}
	return s.Max()
}

func (s Series) values() []float64 {
	var v []float64
	for _, sample := range s {
		v = append(v, sample.Value)
	}
	return v
}

// Over is the median of the ratios to other in the same round: what disturbs a
// whole round disturbs both. False if no round has both.
func (s Series) Over(other Series) (float64, bool) {
	base := map[int]float64{}
	for _, sample := range other {
		base[sample.Round] = sample.Value
	}
	var ratios []float64
	for _, sample := range s {
		if b := base[sample.Round]; b > 0 {
			ratios = append(ratios, sample.Value/b)
		}
	}
	return Quantile(ratios, 0.5), len(ratios) > 0
}

// Quantile interpolates between neighbours.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	part := at - float64(below)
	return sorted[below]*(1-part) + sorted[below+1]*part
}
