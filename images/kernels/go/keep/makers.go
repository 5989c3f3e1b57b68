package keep

// makers are expressions, with import paths in angle quotes, for values of types that cannot be written outside of their
// packages. The names of these types are internal to the standard library: one that it no longer has is not met, and its
// values end with their program as others do.
var makers = map[string]string{
	"*math/rand.rngSource":                   "«math/rand».NewSource(1)",
	"io.discard":                             "«io».Discard",
	"*io.multiWriter":                        "«io».MultiWriter(nil, nil)",
	"*io.multiReader":                        "«io».MultiReader(nil, nil)",
	"*io.teeReader":                          "«io».TeeReader(nil, nil)",
	"*sort.reverse":                          "«sort».Reverse(nil)",
	"*hash/crc32.digest":                     "«hash/crc32».NewIEEE()",
	"*hash/adler32.digest":                   "«hash/adler32».New()",
	"*hash/fnv.sum32":                        "«hash/fnv».New32()",
	"*hash/fnv.sum32a":                       "«hash/fnv».New32a()",
	"*hash/fnv.sum64":                        "«hash/fnv».New64()",
	"*hash/fnv.sum64a":                       "«hash/fnv».New64a()",
	"*crypto/md5.digest":                     "«crypto/md5».New()",
	"*crypto/sha1.digest":                    "«crypto/sha1».New()",
	"*crypto/internal/fips140/sha256.Digest": "«crypto/sha256».New()",
	"*crypto/internal/fips140/sha512.Digest": "«crypto/sha512».New()",
	"encoding/binary.littleEndian":           "«encoding/binary».LittleEndian",
	"encoding/binary.bigEndian":              "«encoding/binary».BigEndian",
	"context.backgroundCtx":                  "«context».Background()",
	"context.todoCtx":                        "«context».TODO()",
	"*context.valueCtx":                      "«context».WithValue(«context».Background(), 0, 0)",
	"context.deadlineExceededError":          "«context».DeadlineExceeded",
	"*os.fileStat":                           "func() any { found, _ := «os».Lstat(\"/\"); return found }()",
}
