package lastgood

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// FileName is the picture's in the state directory.
const FileName = "last-known-good.json"

// Config reads the network config of the picture in file, whatever fabric it is
// of; nil if there was none. The error is
// fs.ErrNotExist if nothing was ever saved.
func Config(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read last known good picture: %w", err)
	}
	defer func() { _ = file.Close() }()
	var p picture
	if err := decode(file, func(body io.Reader) error { return json.NewDecoder(body).Decode(&p) }); err != nil {
		return nil, fmt.Errorf("last known good picture %s: %w", path, err)
	}
	if p.Config == nil {
		return nil, nil
	}
	return []byte(*p.Config), nil
}
